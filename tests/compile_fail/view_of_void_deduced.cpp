// A view whose element type would be void.
// EXPECT-SOON: sp: a view needs to know its elements
#include <sp/core/view.hpp>

auto use(void* memory) {
#ifdef SP_FAIL
  sp::view deduced(memory, 4, 2, 8);
#else
  sp::view deduced(static_cast<float*>(memory), 4, 2, 8);
#endif
  return deduced.extent(0);
}
