// Attention sinks have the type of sums, and the sentence for operands says so.
// EXPECT: sinks and dsinks are sp::view<float, 1>, for tensors of double sp::view<double, 1>
#include <sp/reference.hpp>
#include <sp/ring.hpp>

void use(sp::batch const& b, sp::view<float, 3> x, [[maybe_unused]] sp::view<float, 1> s,
         [[maybe_unused]] sp::view<double, 1> wide) {
  sp::ring_attention attn{sp::solo{}, sp::reference{}};
#ifdef SP_FAIL
  attn.infer(b, {.q = x, .k = x, .v = x, .out = x, .sinks = wide});
#else
  attn.infer(b, {.q = x, .k = x, .v = x, .out = x, .sinks = s});
#endif
}
