// A gather over something that is no communicator.
// EXPECT: sp::gather_tokens: the argument must be a communicator: copyable, with memory_type, rank\(\), size\(\) and exchange\(traffic\)
#include <sp/collective/solo.hpp>
#include <sp/gather_tokens.hpp>

int main() {
#ifdef SP_FAIL
  sp::gather_tokens gather{3};
#else
  sp::gather_tokens gather{sp::solo{}};
#endif
  return gather.group().size() - 1;
}
