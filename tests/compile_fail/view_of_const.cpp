// A view of values over memory that may only be read.
// EXPECT-SOON: sp: a view needs a pointer to its own elements
#include <sp/core/view.hpp>

sp::view<float const, 3> use(float const* memory) {
#ifdef SP_FAIL
  return sp::view<float, 3>(memory, {4, 2, 8});
#else
  return sp::view<float const, 3>(memory, {4, 2, 8});
#endif
}
