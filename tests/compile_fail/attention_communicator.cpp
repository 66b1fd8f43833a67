// What is no communicator is refused by name, with what a communicator needs.
// EXPECT: sp::ring_attention: the first argument must be a communicator
#include <sp/reference.hpp>
#include <sp/ring.hpp>

struct nobody {};

auto use() {
#ifdef SP_FAIL
  return sp::ring_attention{nobody{}, sp::reference{}};
#else
  return sp::ring_attention{sp::solo{}, sp::reference{}};
#endif
}
