// The gradients of a call by name have the element type of what forward saved.
// EXPECT: sp: the tensors of one attention call must be \(tokens, heads, dim\) of one element type, in the memory of the context.s queue \(host memory without one\), and outputs must not be const
#include <sp/reference.hpp>
#include <sp/ring.hpp>

void use(sp::batch const& b, sp::view<float, 3> x, [[maybe_unused]] sp::view<double, 3> y) {
  sp::ring_attention attn{sp::solo{}, sp::reference{}};
  auto saved = attn.forward(b, {.q = x, .k = x, .v = x, .out = x});
#ifdef SP_FAIL
  attn.backward(b, std::move(saved), {.q = x, .k = x, .v = x, .out = x, .dout = x, .dq = x, .dk = y, .dv = x});
#else
  attn.backward(b, std::move(saved), {.q = x, .k = x, .v = x, .out = x, .dout = x, .dq = x, .dk = x, .dv = x});
#endif
}
