// A kernel that only infers is fine until backward is called.
// EXPECT: sp: this kernel has no backward\(whole_grad\)
#include <sp/ulysses.hpp>

struct forward_only {
  using memory_type = sp::host_memory;
  void forward(sp::whole_call<float> const&) const {}
};

void use(sp::batch const& b, sp::view<float, 3> x) {
  sp::ulysses_attention attn{sp::solo{}, forward_only{}};
  auto saved = attn.forward(b, x, x, x, x);
#ifdef SP_FAIL
  attn.backward(b, std::move(saved), x, x, x, x, x, x, x, x);
#endif
}
