// A kernel where vit_attention wants an attention object over the same ranks.
// EXPECT: sp::vit_attention: the second argument must be an attention object over the same ranks: sp::ring_attention or sp::ulysses_attention
#include <sp/reference.hpp>
#include <sp/ulysses.hpp>
#include <sp/vision.hpp>

int main() {
#ifdef SP_FAIL
  sp::vit_attention attention{sp::solo{}, sp::reference{}};
#else
  sp::vit_attention attention{sp::solo{}, sp::ulysses_attention{sp::solo{}, sp::reference{}, {.mask = sp::full()}}};
#endif
  return attention.group().size() - 1;
}
