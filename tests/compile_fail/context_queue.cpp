// A context whose first of three arguments is no queue.
// EXPECT-SOON: sp::context: the first of three arguments must be a queue
#include <sp/core/context.hpp>

struct place {
  using memory_type = sp::host_memory;
};

void use(sp::pool& memory) {
#ifdef SP_FAIL
  sp::context ctx(place{}, memory, memory);
#else
  sp::context ctx(sp::inline_queue{}, memory, memory);
#endif
}
