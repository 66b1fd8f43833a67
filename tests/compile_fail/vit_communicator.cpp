// vit_attention over something that is no communicator.
// EXPECT: sp::vit_attention: the first argument must be a communicator: copyable, with memory_type, rank\(\), size\(\) and exchange\(traffic\)
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/vision.hpp>

struct ranks_only {
  int rank() const { return 0; }
  int size() const { return 1; }
};

int main() {
  sp::ring_attention inside{sp::solo{}, sp::reference{}, {.mask = sp::full()}};
#ifdef SP_FAIL
  sp::vit_attention attention{ranks_only{}, inside};
#else
  sp::vit_attention attention{sp::solo{}, inside};
#endif
  return attention.group().size() - 1;
}
