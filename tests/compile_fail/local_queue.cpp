// Ranks that work on something that is no queue.
// EXPECT: sp::local: the template argument must be a queue: sp::inline_queue, or a copyable handle with memory_type
#include <sp/local.hpp>

struct no_queue {
  using memory_type = sp::host_memory;
};

int main() {
#ifdef SP_FAIL
  sp::local<no_queue>::run(1, [](auto const&) {});
#else
  sp::local<sp::inline_queue>::run(1, [](auto const&) {});
#endif
}
