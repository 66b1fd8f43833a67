// A view of values over memory that may only be read.
// EXPECT-SOON: invalid conversion from .const float\*. to .float\*|1st argument \('const float \*'\) would lose const qualifier
#include <sp/core/view.hpp>

sp::view<float const, 3> use(float const* memory) {
#ifdef SP_FAIL
  return sp::view<float, 3>(memory, {4, 2, 8});
#else
  return sp::view<float const, 3>(memory, {4, 2, 8});
#endif
}
