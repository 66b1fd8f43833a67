// A context whose queue works on another memory than the communicator and the kernel of the attention object.
// EXPECT-SOON: sp: the queue of this context works on another memory than the attention object
#include <sp/reference.hpp>
#include <sp/ring.hpp>

struct away : sp::inline_queue {
#ifdef SP_FAIL
  using memory_type = sp::device_memory;
#endif
};

void use(sp::batch const& b, sp::basic_allocator<away::memory_type>& memory, sp::view<float, 3, away::memory_type> x) {
  sp::ring_attention attn{sp::solo{}, sp::reference{}};
  sp::context const ctx(away{}, memory, memory);
  auto saved = attn.forward(attn.prepare(b), ctx, {.q = x, .k = x, .v = x, .out = x});
}
