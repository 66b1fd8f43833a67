// A kernel that keeps tables is not prepared without the context that uploads them, and what is refreshed is what was prepared.
// EXPECT: sp: this kernel keeps tables in the memory of its queue: prepare with the context of its calls, prepare\(batch, context\)
// EXPECT: sp: refresh\(\) takes what prepare\(\) of this attention object returned
#include <sp/ring.hpp>

struct kernel {
  using memory_type = sp::host_memory;
  using saved = sp::nothing;
  struct plan {};
  template <class Queue>
  plan prepare(sp::problem const&, sp::context<Queue> const&) const {
    return {};
  }
  template <class Queue>
  void refresh(plan&, sp::problem const&, sp::context<Queue> const&) const {}
  template <class T>
  saved forward(plan const&, sp::allocator&, sp::call_params const&, sp::view<T const, 3>, std::span<sp::kv_views<T> const>,
                sp::attention_state<T>) const;
  template <class T>
  void backward(plan const&, sp::allocator&, sp::call_params const&, std::span<sp::query_grad<T> const>,
                std::span<sp::key_grad<T> const>, saved const&) const;
};

void use(sp::batch const& b, sp::pool& memory) {
  sp::ring_attention const attn{sp::solo{}, kernel{}};
  sp::context const ctx(memory, memory);
  auto prepared = attn.prepare(b, ctx);
#ifdef SP_FAIL
  (void)attn.prepare(b);
  kernel::plan other;
  attn.refresh(other, b, ctx);
#else
  attn.refresh(prepared, b, ctx);
#endif
}
