// Ulysses over something that is no communicator.
// EXPECT: sp::ulysses_attention: the first argument must be a communicator: copyable, with memory_type, rank\(\), size\(\) and exchange\(traffic\)
#include <sp/reference.hpp>
#include <sp/ulysses.hpp>

struct ranks_only {
  int rank() const { return 0; }
  int size() const { return 1; }
};

int main() {
#ifdef SP_FAIL
  sp::ulysses_attention attention{ranks_only{}, sp::reference{}};
#else
  sp::ulysses_attention attention{sp::solo{}, sp::reference{}};
#endif
  return attention.group().size() - 1;
}
