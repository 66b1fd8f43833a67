// What a call by name writes to must not be const.
// EXPECT: sp: the tensors of one attention call must be \(tokens, heads, dim\) of one element type, in the memory of the context.s queue \(host memory without one\), and outputs must not be const
#include <sp/reference.hpp>
#include <sp/ring.hpp>

void use(sp::batch const& b, sp::context<> const& ctx, sp::view<float, 3> x, [[maybe_unused]] sp::view<float const, 3> fixed) {
  sp::ring_attention attn{sp::solo{}, sp::reference{}};
  auto prepared = attn.prepare(b);
#ifdef SP_FAIL
  attn.infer(prepared, ctx, {.q = x, .k = x, .v = x, .out = fixed});
#else
  attn.infer(prepared, ctx, {.q = fixed, .k = x, .v = x, .out = x});
#endif
}
