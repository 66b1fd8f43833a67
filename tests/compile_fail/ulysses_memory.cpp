// A kernel for tensors of another memory than those that the communicator moves, under Ulysses.
// EXPECT-SOON: sp::ulysses_attention: the communicator moves tensors of one memory and the attention inside computes on those of another
#include <sp/ulysses.hpp>

struct kernel {
#ifdef SP_FAIL
  using memory_type = sp::device_memory;
#else
  using memory_type = sp::host_memory;
#endif
  void forward(sp::whole_call<float, memory_type> const&) const {}
  void backward(sp::whole_grad<float, memory_type> const&) const {}
};

int main() {
  sp::ulysses_attention attention{sp::solo{}, kernel{}};
  return attention.group().size() - 1;
}
