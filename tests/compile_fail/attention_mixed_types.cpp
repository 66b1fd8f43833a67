// The tensors of one call have one element type.
// EXPECT: sp: the tensors of one attention call must be \(tokens, heads, dim\) of one element type, in the memory of the context.s queue \(host memory without one\), and outputs must not be const
#include <sp/reference.hpp>
#include <sp/ring.hpp>

void use(sp::batch const& b, sp::view<float, 3> x, [[maybe_unused]] sp::view<double, 3> y) {
  sp::ring_attention attn{sp::solo{}, sp::reference{}};
#ifdef SP_FAIL
  auto saved = attn.forward(b, x, y, x, x);
#else
  auto saved = attn.forward(b, x, x, x, x);
#endif
}
