// A queue and memory of a device, for tests: a stream as a caller has one, and what tests give and read. Compiled by nvcc it is a device;
// by any other compiler a fake, whose kernels run on emulated blocks: then include it before anything that gives a cuda_queue work.
#pragma once

#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include <sp/core/elementwise.hpp>
#include <sp/cuda.hpp>

#ifdef __CUDACC__
#include "support/late_queue.hpp"
#else
#include "support/emulated_block.hpp"
#include "support/fake_cuda.hpp"
#endif

namespace cuda_tests {

using sp::cuda_queue;
using sp::device_memory;
using sp::index_t;
using support::interleaving;

#ifdef __CUDACC__
inline constexpr bool on_a_device = true;
/// A device takes turns as it likes, and nobody can hold it back.
inline void streams_of(unsigned, interleaving) {}
struct held_streams {
  explicit held_streams(std::initializer_list<cudaStream_t>) {}
  void end() {}
};
#else
inline constexpr bool on_a_device = false;
using fake_cuda::streams_of;
using held_streams = fake_cuda::hold;
#endif

inline int device_count() {
  int n = 0;
  REQUIRE(cudaGetDeviceCount(&n) == cudaSuccess);
  return n;
}

/// A stream of the caller's.
struct stream {
  cudaStream_t handle = nullptr;
  explicit stream(unsigned seed = 1, interleaving how = interleaving::random, int device = 0) {
    streams_of(seed, how);
    REQUIRE(cudaSetDevice(device) == cudaSuccess);
    REQUIRE(cudaStreamCreate(&handle) == cudaSuccess);
    REQUIRE(cudaSetDevice(0) == cudaSuccess);
  }
  stream(stream const&) = delete;
  ~stream() { cudaStreamDestroy(handle); }
};
/// With a queue and memory.
struct place : stream {
  cuda_queue queue;
  sp::device_pool memory;
  explicit place(unsigned seed = 1, interleaving how = interleaving::random, int device = 0)
      : stream(seed, how, device), queue(handle, device), memory(queue) {}

  template <class T>
  sp::owned<T, 1, device_memory> block(index_t n) {
    return {memory, {n}};
  }
  template <class T>
  sp::owned<T, 1, device_memory> block(std::vector<T> const& values) {
    auto b = block<T>(index_t(values.size()));
    queue.upload(reinterpret_cast<std::byte*>(b.tensor.data), std::as_bytes(std::span(values)));
    return b;
  }
  template <class T>
  std::vector<std::remove_const_t<T>> read(sp::view<T, 1, device_memory> v) const {
    std::vector<std::remove_const_t<T>> values(std::size_t(v.extent(0)));
    sp::detail::read_now(queue, sp::view<std::remove_const_t<T>, 1>(values.data(), v.extent(0)), v);
    return values;
  }
};

/// What the capture of a stream makes, ready to be launched.
class graph {
public:
  template <class Work>
  graph(cudaStream_t root, Work&& work, cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal) {
    REQUIRE(cudaStreamBeginCapture(root, mode) == cudaSuccess);
    work();
    end_ = cudaStreamEndCapture(root, &graph_);
    if (end_ == cudaSuccess) REQUIRE(cudaGraphInstantiate(&exec_, graph_, 0) == cudaSuccess);
  }
  graph(graph const&) = delete;
  ~graph() {
    if (exec_) cudaGraphExecDestroy(exec_);
    if (graph_) cudaGraphDestroy(graph_);
  }
  cudaError_t end() const { return end_; }
  void launch(cudaStream_t s) const { REQUIRE(cudaGraphLaunch(exec_, s) == cudaSuccess); }

private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
  cudaError_t end_ = cudaSuccess;
};

/// Bodies.
struct set {
  sp::view<int, 1, device_memory> to;
  int value;
  SP_BOTH void operator()(index_t i) const { to(i) = value; }
};
struct increase {
  sp::view<int, 1, device_memory> to;
  SP_BOTH void operator()(index_t i) const { ++to(i); }
};

inline std::vector<int> counted_from(int first, std::size_t n) {
  std::vector<int> v(n);
  std::iota(v.begin(), v.end(), first);
  return v;
}

} // namespace cuda_tests
