// backward() takes what forward() returned away from the caller: a saved that stays is refused.
// EXPECT: sp: backward consumes what forward returned; pass std::move\(saved\)
#include <utility>

#include <sp/reference.hpp>
#include <sp/ring.hpp>

int main() {
  sp::ring_attention attention{sp::solo{}, sp::reference{}};
  sp::batch batch{sp::packed{0}, sp::zigzag{}, sp::solo{}};
  sp::view<float, 3> q(nullptr, {0, 2, 4}), k(nullptr, {0, 1, 4});
  auto saved = attention.forward(batch, q, k, k, q);
#ifdef SP_FAIL
  attention.backward(batch, saved, q, k, k, q, q, q, k, k);
#else
  attention.backward(batch, std::move(saved), q, k, k, q, q, q, k, k);
#endif
}
