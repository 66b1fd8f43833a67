// A kernel that takes no queue is refused on a queue whose work is not done when a call returns.
// EXPECT-SOON: sp: the work of this context's queue is not done when a call returns, and the kernel takes no queue
#include <sp/ulysses.hpp>

#ifdef SP_FAIL
using memory_type = sp::device_memory;
#else
using memory_type = sp::host_memory;
#endif

struct kernel {
  using memory_type = ::memory_type;
  void forward(sp::whole_call<float, memory_type> const&) const {}
  void backward(sp::whole_grad<float, memory_type> const&) const {}
};
struct late : sp::inline_queue {
  using memory_type = ::memory_type;
#ifdef SP_FAIL
  static constexpr bool finished_on_return = false;
#endif
};

void use(sp::batch const& b, sp::basic_allocator<memory_type>& memory, sp::view<float, 3, memory_type> x) {
  sp::whole_attention attn{kernel{}};
  sp::context const ctx(late{}, memory, memory);
  attn.infer(attn.prepare(b), ctx, {.q = x, .k = x, .v = x, .out = x});
}
