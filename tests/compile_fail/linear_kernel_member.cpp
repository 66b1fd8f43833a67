// A kernel of linear attention that lacks a call: the sentence lists what a kernel has.
// EXPECT: sp::linear_attention: the kernel does not model sp::linear_kernel for tensors of this element type: reduce, forward, backward and backward_reduce
#include <sp/counting.hpp>
#include <sp/linear.hpp>

struct kernel : sp::plain_linear {
  using sp::plain_linear::plain_linear;
#ifdef SP_FAIL
  void backward_reduce() const {}
#endif
};

void use(sp::batch const& batch, sp::view<float, 3> x) {
  sp::linear_attention attention{sp::solo{}, kernel{}};
  attention.infer(batch, {.q = x, .k = x, .v = x, .out = x});
}
