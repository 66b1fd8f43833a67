// Ranks of sp::nccl: threads of this process, each with a stream and a communicator. Compiled by nvcc they are NCCL's, on one device or
// several; by any other compiler those of a fake NCCL over a fake runtime, and what the fake complains about after a run fails the test.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#ifndef __CUDACC__
#include "support/emulated_block.hpp" // before what launches kernels
#endif

#include <sp/core/context.hpp>
#include <sp/core/elementwise.hpp>
#include <sp/nccl.hpp>

#ifdef __CUDACC__
#include "support/late_queue.hpp"
#else
#include "support/fake_cuda.hpp"
#include "support/fake_nccl.hpp"
#endif

namespace support {

/// Before main, and so before the first call of the runtime: ranks are threads.
inline bool const kernels_are_loaded_at_once = setenv("CUDA_MODULE_LOADING", "EAGER", 0) == 0;

#ifdef __CUDACC__
/// What tests ask of the fake beside NCCL's calls. NCCL itself says nothing of a communicator that sp::nccl may have aborted: where a test
/// fails it is left to the end of the process.
namespace nccl_says {
inline bool is_alive(ncclComm_t) { return std::uncaught_exceptions() == 0; }
inline void forget_complaints() {}
inline std::vector<std::string> complaints() { return {}; }
} // namespace nccl_says

/// How many ranks NCCL can have here: one a device; where it is 2.30 or newer and told so, several share one.
inline int most_nccl_ranks() {
  int version = 0, devices = 0;
  REQUIRE(ncclGetVersion(&version) == ncclSuccess);
  REQUIRE(cudaGetDeviceCount(&devices) == cudaSuccess);
  char const* const several = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  return version >= 23000 && several && std::string(several) == "1" ? 8 : std::min(devices, 8);
}
/// The rank's device is current from now on.
inline int take_device(int rank, unsigned, interleaving) {
  int devices = 1;
  REQUIRE(cudaGetDeviceCount(&devices) == cudaSuccess);
  REQUIRE(cudaSetDevice(rank % devices) == cudaSuccess);
  return rank % devices;
}
#else
namespace nccl_says = fake_nccl;
inline int most_nccl_ranks() { return 8; }
inline int take_device(int rank, unsigned seed, interleaving how) {
  fake_cuda::streams_of(seed * 16 + unsigned(rank), how);
  return 0;
}
#endif

/// A stream of this thread's device.
class own_stream {
public:
  own_stream() { REQUIRE(cudaStreamCreateWithFlags(&stream_, cudaStreamDefault) == cudaSuccess); }
  own_stream(own_stream const&) = delete;
  ~own_stream() { static_cast<void>(cudaStreamDestroy(stream_)); }
  [[nodiscard]] cudaStream_t get() const noexcept { return stream_; }

private:
  cudaStream_t stream_ = nullptr;
};

/// What a trainer has: a communicator of this rank, which it destroys behind everything else.
class own_comm {
public:
  own_comm(int ranks, ncclUniqueId id, int rank) { REQUIRE(ncclCommInitRank(&comm_, ranks, id, rank) == ncclSuccess); }
  own_comm(own_comm const&) = delete;
  ~own_comm() {
    if (nccl_says::is_alive(comm_)) static_cast<void>(ncclCommDestroy(comm_));
  }
  [[nodiscard]] ncclComm_t get() const noexcept { return comm_; }

private:
  ncclComm_t comm_ = nullptr;
};

/// A rank's tensors, and the context of its calls.
struct nccl_place {
  explicit nccl_place(sp::nccl const& c) : queue(c.queue()), pool(queue), ctx(queue, pool, pool) {}
  sp::cuda_queue queue;
  sp::device_pool pool;
  sp::context<sp::cuda_queue> ctx;

  template <class T>
  sp::owned<T, 2, sp::device_memory> tensor(sp::index_t rows, sp::index_t columns, T first) {
    sp::owned<T, 2, sp::device_memory> x(pool, {rows, columns});
    std::vector<T> values(std::size_t(rows * columns));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = T(first + T(i));
    queue.upload(reinterpret_cast<std::byte*>(x.tensor.data), std::as_bytes(std::span(values)));
    return x;
  }
  template <class T>
  std::vector<T> read(sp::view<T, 2, sp::device_memory> const& x) const {
    std::vector<T> values(std::size_t(x.elements()));
    sp::detail::read_now(queue, sp::view<T, 2>(values.data(), x.extents), x);
    return values;
  }
};

struct nccl_run {
  unsigned seed = 1;
  interleaving how = interleaving::random;
  sp::nccl_options options{};
  bool may_complain = false;
};

/// body(rank's sp::nccl, its ncclComm_t) on so many threads. The first exception is thrown when all have returned.
template <class Body>
void run_nccl(int ranks, Body const& body, nccl_run const& run = {}) {
  nccl_says::forget_complaints();
  ncclUniqueId id;
  REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
  std::mutex mutex;
  std::exception_ptr thrown;
  auto rank_of = [&](int r) {
    try {
      int const device = take_device(r, run.seed, run.how);
      own_comm const comm(ranks, id, r);
      own_stream const stream;
      {
        sp::cuda_queue const queue(stream.get(), device);
        sp::nccl const self(comm.get(), queue, run.options);
        body(self, comm.get());
        if (nccl_says::is_alive(comm.get())) queue.synchronize();
      }
    } catch (...) {
      std::lock_guard const lock(mutex);
      if (!thrown) thrown = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) threads.emplace_back(rank_of, r);
  for (std::thread& t : threads) t.join();
  if (thrown) std::rethrow_exception(thrown);
  if (!run.may_complain)
    for (std::string const& c : nccl_says::complaints()) FAIL_CHECK(c);
}

} // namespace support
