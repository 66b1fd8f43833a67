// A kernel for tensors of another memory than those that the communicator moves.
// EXPECT-SOON: sp::ring_attention: the communicator moves tensors of one memory and the kernel computes on those of another
#include <sp/reference.hpp>
#include <sp/ring.hpp>

#ifdef SP_FAIL
using memory = sp::device_memory;
#else
using memory = sp::host_memory;
#endif

int main() {
  sp::ring_attention attention{sp::solo{}, sp::basic_reference<memory>{}};
  return attention.group().rank();
}
