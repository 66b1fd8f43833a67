// A kernel's accepts(block) that answers nothing is refused where the kernel is called.
// EXPECT: sp: a kernel's accepts\(block\) must be const and return bool
#include <sp/ulysses.hpp>

struct kernel {
  using memory_type = sp::host_memory;
#ifdef SP_FAIL
  void accepts(sp::block const&) const {}
#else
  bool accepts(sp::block const& b) const { return b.is_full(); }
#endif
  void forward(sp::whole_call<float> const&) const {}
};

void use(sp::batch const& b, sp::view<float, 3> x) {
  sp::ulysses_attention attn{sp::solo{}, kernel{}};
  auto saved = attn.forward(b, x, x, x, x);
}
