// A ring over something that is no communicator: one sentence that lists what is missing.
// EXPECT: sp::ring_attention: the first argument must be a communicator: copyable, with memory_type, rank\(\), size\(\) and exchange\(traffic\)
#include <sp/reference.hpp>
#include <sp/ring.hpp>

struct ranks_only {
  int rank() const { return 0; }
  int size() const { return 1; }
};

int main() {
#ifdef SP_FAIL
  sp::ring_attention attention{ranks_only{}, sp::reference{}};
#else
  sp::ring_attention attention{sp::solo{}, sp::reference{}};
#endif
  return attention.group().size() - 1;
}
