// A kernel that takes no queue is refused on a queue whose work is not done when a call returns.
// EXPECT-SOON: sp: the work of this context's queue is not done when a call returns, and the kernel takes no queue
#include <sp/ulysses.hpp>

struct kernel {
  using memory_type = sp::host_memory;
  void forward(sp::whole_call<float> const&) const {}
  void backward(sp::whole_grad<float> const&) const {}
};
struct late : sp::inline_queue {
#ifdef SP_FAIL
  static constexpr bool finished_on_return = false;
#endif
};

void use(sp::batch const& b, sp::pool& memory, sp::view<float, 3> x) {
  sp::whole_attention attn{kernel{}};
  sp::context const ctx(late{}, memory, memory);
  attn.infer(attn.prepare(b), ctx, {.q = x, .k = x, .v = x, .out = x});
}
