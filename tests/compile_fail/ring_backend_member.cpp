// A table kernel that lacks a member is refused in one sentence that lists what a backend has.
// EXPECT: sp::ring_attention: the kernel must model sp::attention_backend for some element type
#include <sp/ring.hpp>

struct no_backward {
  using memory_type = sp::host_memory;
  using saved = sp::nothing;
  struct plan {};
  plan prepare(sp::problem const&) const { return {}; }
};

int main() {
#ifdef SP_FAIL
  sp::ring_attention refused{sp::solo{}, no_backward{}};
#endif
}
