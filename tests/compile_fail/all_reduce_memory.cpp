// A sum over ranks of memory that the caller's thread cannot add up.
// EXPECT: sp::all_reduce sums this memory as work of a queue: give a context instead of an allocator
#include <sp/collective/reductions.hpp>
#include <sp/collective/solo.hpp>

struct on_device {
  using memory_type = sp::device_memory;
  int rank() const { return 0; }
  int size() const { return 1; }
  sp::solo::token exchange(sp::traffic const&) const { return {}; }
};

void use([[maybe_unused]] sp::allocator& scratch, [[maybe_unused]] sp::basic_allocator<sp::device_memory>& there) {
#ifdef SP_FAIL
  sp::all_reduce(on_device(), sp::view<float, 1, sp::device_memory>(), there);
#else
  sp::all_reduce(sp::solo(), sp::view<float, 1>(), scratch);
#endif
}
