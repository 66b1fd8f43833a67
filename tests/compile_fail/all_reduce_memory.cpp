// A sum over ranks of memory that the fallback cannot add up.
// EXPECT: sp::all_reduce cannot sum this memory on the CPU: the communicator needs a member all_reduce\(view\)
#include <sp/collective/operations.hpp>
#include <sp/collective/solo.hpp>

struct on_device {
  using memory_type = sp::device_memory;
  int rank() const { return 0; }
  int size() const { return 1; }
  sp::solo::token exchange(sp::traffic const&) const { return {}; }
};

void use([[maybe_unused]] sp::allocator& scratch, [[maybe_unused]] sp::basic_allocator<sp::device_memory>& on_it) {
#ifdef SP_FAIL
  sp::all_reduce(on_device(), sp::view<float, 1, sp::device_memory>(), on_it);
#else
  sp::all_reduce(sp::solo(), sp::view<float, 1>(), scratch);
#endif
}
