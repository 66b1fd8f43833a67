// A view of device memory does not become a view of host memory.
// EXPECT: view<float, ?2, ?sp::cuda>.*view<float, ?2, ?sp::host>
// EXPECT-GCC: could not convert
// EXPECT-CLANG: no known conversion
#include <sp/core/view.hpp>

float first(sp::view<float, 2, sp::host> v) { return v(0, 0); }

float use([[maybe_unused]] sp::view<float, 2, sp::host> on_host, [[maybe_unused]] sp::view<float, 2, sp::cuda> on_device) {
#ifdef SP_FAIL
  return first(on_device);
#else
  return first(on_host);
#endif
}
