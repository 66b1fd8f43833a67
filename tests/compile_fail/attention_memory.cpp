// Device memory in a call on host memory.
// EXPECT: sp: the tensors of one attention call must be \(tokens, heads, dim\) of one element type, in the memory of the context.s queue \(host memory without one\), and outputs must not be const
#include <sp/reference.hpp>
#include <sp/ring.hpp>

int main() {
  sp::ring_attention attention{sp::solo{}, sp::reference{}};
  sp::batch batch{sp::packed{0}, sp::zigzag{}, sp::solo{}};
  sp::view<float, 3> k(nullptr, {0, 1, 4}), out(nullptr, {0, 2, 4}), v(nullptr, {0, 1, 4});
#ifdef SP_FAIL
  sp::view<float, 3, sp::device_memory> q(nullptr, {0, 2, 4});
#else
  sp::view<float, 3, sp::host_memory> q(nullptr, {0, 2, 4});
#endif
  auto saved = attention.forward(batch, q, k, v, out);
  return int(saved.lse.tensor.extent(0));
}
