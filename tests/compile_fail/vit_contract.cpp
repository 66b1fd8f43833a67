// A vit_attention that does not say how gradients of prefix tokens come and leave.
// EXPECT: sp::vit_attention: say how gradients of prefix tokens come and leave: sp::shares\{\} \(their sum over ranks is the gradient\) or sp::same\{\}
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/vision.hpp>

int main() {
  sp::ring_attention inside{sp::solo{}, sp::reference{}, {.mask = sp::full()}};
#ifdef SP_FAIL
  sp::vit_attention attention{sp::solo{}, inside, 3};
#else
  sp::vit_attention attention{sp::solo{}, inside, sp::same{}, {.prefix = 3}};
#endif
  return attention.group().size() - 1;
}
