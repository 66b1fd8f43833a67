// A call with a context takes what was prepared, not a batch.
// EXPECT: sp: a call with a context takes what prepare\(batch\) returned, not the batch
#include <sp/reference.hpp>
#include <sp/ring.hpp>

void use(sp::batch const& b, sp::context<> const& c, sp::view<float, 3> x) {
  sp::ring_attention attn{sp::solo{}, sp::reference{}};
  auto const prepared = attn.prepare(b);
#ifdef SP_FAIL
  attn.infer(b, c, {.q = x, .k = x, .v = x, .out = x});
#else
  attn.infer(prepared, c, {.q = x, .k = x, .v = x, .out = x});
#endif
}
