// Ulysses around something that is neither an attention object nor a kernel.
// EXPECT: sp::ulysses_attention: the second argument must be an attention object or a kernel
#include <sp/reference.hpp>
#include <sp/ulysses.hpp>

int main() {
#ifdef SP_FAIL
  sp::ulysses_attention attention{sp::solo{}, 7};
#else
  sp::ulysses_attention attention{sp::solo{}, sp::reference{}};
#endif
  return attention.group().size() - 1;
}
