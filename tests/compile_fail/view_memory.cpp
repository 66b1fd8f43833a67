// A view of device memory does not become a view of host memory.
// EXPECT: view<float, ?2, ?sp::device_memory>.*view<float, ?2, ?sp::host_memory>
// EXPECT-GCC: could not convert
// EXPECT-CLANG: no known conversion
#include <sp/core/view.hpp>

float first(sp::view<float, 2, sp::host_memory> v) { return v(0, 0); }

float use([[maybe_unused]] sp::view<float, 2, sp::host_memory> on_host,
          [[maybe_unused]] sp::view<float, 2, sp::device_memory> on_device) {
#ifdef SP_FAIL
  return first(on_device);
#else
  return first(on_host);
#endif
}
