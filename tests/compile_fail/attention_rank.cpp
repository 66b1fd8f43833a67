// A tensor with two dimensions where attention takes three.
// EXPECT: sp: this tensor has another number of dimensions; attention takes \(tokens, heads, dim\)
#include <sp/reference.hpp>
#include <sp/ring.hpp>

int main() {
  sp::ring_attention attention{sp::solo{}, sp::reference{}};
  sp::batch batch{sp::packed{0}, sp::zigzag{}, sp::solo{}};
  sp::view<float, 3> k(nullptr, {0, 1, 4}), v(nullptr, {0, 1, 4}), out(nullptr, {0, 2, 4});
#ifdef SP_FAIL
  sp::view<float, 2> q(nullptr, {0, 8});
#else
  sp::view<float, 3> q(nullptr, {0, 2, 4});
#endif
  auto saved = attention.forward(batch, q, k, v, out);
  return int(saved.lse.tensor.extent(0));
}
