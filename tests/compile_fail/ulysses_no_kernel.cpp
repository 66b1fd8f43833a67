// What is neither an attention object nor a kernel is refused by Ulysses, with what it would need.
// EXPECT: sp::ulysses_attention: the second argument must be an attention object or a kernel
#include <sp/reference.hpp>
#include <sp/ulysses.hpp>

struct nothing_to_compute {};

auto use() {
#ifdef SP_FAIL
  return sp::ulysses_attention{sp::solo{}, nothing_to_compute{}};
#else
  return sp::ulysses_attention{sp::solo{}, sp::reference{}};
#endif
}
