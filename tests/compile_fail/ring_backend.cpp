// A ring around something that is no kernel.
// EXPECT: sp::ring_attention: this kernel cannot resume or return its lse, so partial results over different keys cannot be merged
#include <sp/reference.hpp>
#include <sp/ring.hpp>

struct nonsense {};

int main() {
#ifdef SP_FAIL
  sp::ring_attention attention{sp::solo{}, nonsense{}};
#else
  sp::ring_attention attention{sp::solo{}, sp::reference{}};
#endif
  return attention.group().size() - 1;
}
