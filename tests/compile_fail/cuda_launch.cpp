// Work for a device without nvcc, and kernels that no device can be given.
// EXPECT: sp: work for a device needs nvcc: compile this source as CUDA
// EXPECT: sp: the threads of a block are a multiple of 32, at most 1024
// EXPECT: sp: a kernel travels to the device as bytes: make it trivially copyable
// EXPECT: sp: a kernel has room for 32764 bytes of arguments: hand over a pointer to a table
#include <sp/cuda/launch.hpp>

#include <vector>

template <int Threads, class Argument>
struct kernel {
  Argument argument{};
  static constexpr int threads = Threads;
  template <class Block>
  SP_DEVICE void operator()(Block&) const {}
};

void use() {
#ifdef SP_FAIL
  sp::detail::launch(nullptr, kernel<100, int>{}, 1, 0);
  sp::detail::launch(nullptr, kernel<32, std::vector<int>>{}, 1, 0);
  sp::detail::launch(nullptr, kernel<32, char[32768]>{}, 1, 0);
#else
  sp::detail::require_kernel<kernel<96, int>>();
#endif
}
