// A kernel's accepts(block) that the library could not call is refused, not passed over.
// EXPECT: sp: a kernel's accepts\(block\) must be const and return bool
#include <sp/blockwise.hpp>
#include <sp/ring.hpp>

struct kernel {
  using memory_type = sp::host_memory;
#ifdef SP_FAIL
  bool accepts(sp::block const& b) { return b.is_full(); }
#else
  bool accepts(sp::block const& b) const { return b.is_full(); }
#endif
  void forward(sp::block_call<float> const&) const {}
  void backward(sp::block_grad<float> const&) const {}
};

void use(sp::batch const& b, sp::view<float, 3> x) {
  sp::ring_attention attn{sp::solo{}, sp::blockwise{kernel{}}};
  attn.infer(b, x, x, x, x);
}
