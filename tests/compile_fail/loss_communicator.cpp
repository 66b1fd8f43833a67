// A loss over something that is no communicator.
// EXPECT: sp::gather_loss: the first argument must be a communicator: copyable, with memory_type, rank\(\), size\(\) and exchange\(traffic\)
#include <sp/collective/solo.hpp>
#include <sp/gather_loss.hpp>

int main() {
#ifdef SP_FAIL
  sp::gather_loss loss{3, sp::summed{}};
#else
  sp::gather_loss loss{sp::solo{}, sp::summed{}};
#endif
  return loss.group().size() - 1;
}
