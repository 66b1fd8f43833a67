// A decorator around something that is no communicator.
// EXPECT: sp::counting wraps a communicator: give it rank\(\), size\(\), exchange\(traffic\) and memory_type
#include <sp/counting.hpp>

int main() {
  sp::ledger counts;
#ifdef SP_FAIL
  sp::counting comm(3, counts);
#else
  sp::counting comm(sp::solo{}, counts);
#endif
  return comm.size() - 1;
}
