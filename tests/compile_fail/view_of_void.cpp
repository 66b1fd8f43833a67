// A view over memory that does not say what it holds.
// EXPECT-SOON: type .void\*.\) to type .float\*|'void \*' to 'float \*'
#include <sp/core/view.hpp>

auto use(void* memory) {
#ifdef SP_FAIL
  sp::view<float, 3> tensor(memory, 4, 2, 8);
#else
  sp::view<float, 3> tensor(static_cast<float*>(memory), 4, 2, 8);
#endif
  return tensor.extent(0);
}
