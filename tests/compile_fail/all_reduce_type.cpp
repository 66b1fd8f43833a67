// A sum over ranks of 16-bit elements by a communicator that does not add them up itself.
// EXPECT: sp::all_reduce sums arithmetic types; widen bf16 and fp16 to float first, or sum them by sp::native_sums
#include <sp/collective/reductions.hpp>
#include <sp/collective/solo.hpp>

void use([[maybe_unused]] sp::allocator& scratch) {
#ifdef SP_FAIL
  sp::all_reduce(sp::solo(), sp::view<sp::bf16, 1>(), scratch);
#else
  sp::all_reduce(sp::solo(), sp::view<float, 1>(), scratch);
#endif
}
