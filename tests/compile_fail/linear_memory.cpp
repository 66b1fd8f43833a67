// A kernel of linear attention for another memory than the communicator's.
// EXPECT: sp::linear_attention: the communicator moves tensors of one memory and the kernel computes on those of another
#include <sp/counting.hpp>
#include <sp/linear.hpp>

struct kernel : sp::plain_linear {
  using sp::plain_linear::plain_linear;
#ifdef SP_FAIL
  using memory_type = sp::device_memory;
#endif
};

int main() {
  sp::linear_attention attention{sp::solo{}, kernel{}};
  return attention.group().size() - 1;
}
