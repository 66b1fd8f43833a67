// Attention over tensors of another memory than those that the communicator of a vit_attention moves.
// EXPECT-SOON: sp::vit_attention: the communicator moves tensors of one memory and the attention inside computes on those of another
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/vision.hpp>

#ifdef SP_FAIL
using memory = sp::device_memory;
#else
using memory = sp::host_memory;
#endif

struct communicator {
  using memory_type = memory;
  struct token {
    void wait() {}
  };
  int rank() const { return 0; }
  int size() const { return 1; }
  token exchange(sp::traffic const&) const { return {}; }
};

int main() {
  sp::ring_attention inside{sp::solo{}, sp::reference{}, {.mask = sp::full()}};
  sp::vit_attention attention{communicator{}, inside};
  return attention.group().size() - 1;
}
