// Labels of an unsigned type, which no ignore_index of -100 can ever match.
// EXPECT: sp::gather_loss: labels must be signed integers: ignore_index is negative \(-100\)
#include <cstdint>

#include <sp/collective/solo.hpp>
#include <sp/gather_loss.hpp>

int main() {
#ifdef SP_FAIL
  using label = std::uint32_t;
#else
  using label = std::int32_t;
#endif
  float losses[2] = {1, 2};
  label labels[2] = {3, 4};
  sp::gather_loss loss{sp::solo{}, sp::summed{}};
  auto r = loss.forward(sp::view<float, 1>(losses, {2}), sp::view<label, 1>(labels, {2}));
  return r.num_tokens == 2 ? 0 : 1;
}
