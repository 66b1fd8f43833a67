// A kernel without lse works under Ulysses; a ring cannot merge its partial results and says so.
// EXPECT: sp::ring_attention: this kernel cannot resume or return its lse, so partial results over different keys cannot be merged
#include <sp/ring.hpp>
#include <sp/ulysses.hpp>

#include "conformance/kernels.hpp"

auto use(sp::solo comm) {
#ifdef SP_FAIL
  return sp::ring_attention{comm, conformance::plain_sdpa{}};
#else
  return sp::ulysses_attention{comm, conformance::plain_sdpa{}};
#endif
}
