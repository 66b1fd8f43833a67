// A loss that does not say what will happen to parameter gradients.
// EXPECT: sp::gather_loss: say what will happen to parameter gradients: sp::summed\{\} or sp::averaged\{number of ranks\}
#include <sp/collective/solo.hpp>
#include <sp/gather_loss.hpp>

int main() {
#ifdef SP_FAIL
  sp::gather_loss loss{sp::solo{}, 4};
#else
  sp::gather_loss loss{sp::solo{}, sp::averaged{4}};
#endif
  return loss.group().size() - 1;
}
