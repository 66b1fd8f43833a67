// A kernel that computes no block is refused by sp::blockwise, which names the missing member.
// EXPECT: the kernel has no .forward\(sp::block_call<T> const&\) const.; a kernel that cannot return its lse goes directly into
#include <sp/backend/blockwise.hpp>

struct sdpa { // returns no lse
  using memory_type = sp::host_memory;
#ifdef SP_FAIL
  template <class T>
  void forward(sp::whole_call<T> const&) const {}
#else
  template <class T>
  void forward(sp::block_call<T> const&) const {}
#endif
  template <class T>
  void backward(sp::block_grad<T> const&) const {}
};

auto use() { return sp::blockwise{sdpa{}}; }
