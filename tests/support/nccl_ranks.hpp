// Ranks of sp::nccl over the fake NCCL and the fake CUDA runtime: threads of this process, each with a stream and a communicator.
// No device and no NCCL is involved. What the fake complains about after a run fails the test.
#pragma once

#include <doctest/doctest.h>

#include <exception>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "support/emulated_block.hpp" // before what launches kernels

#include <sp/core/context.hpp>
#include <sp/core/elementwise.hpp>
#include <sp/nccl.hpp>

#include "support/fake_cuda.hpp"
#include "support/fake_nccl.hpp"

namespace support {

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
    if (fake_nccl::is_alive(comm_)) static_cast<void>(ncclCommDestroy(comm_));
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
    std::iota(values.begin(), values.end(), first);
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
  fake_nccl::forget_complaints();
  ncclUniqueId id;
  REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
  std::mutex mutex;
  std::exception_ptr thrown;
  auto rank_of = [&](int r) {
    fake_cuda::streams_of(run.seed * 16 + unsigned(r), run.how);
    try {
      own_comm const comm(ranks, id, r);
      own_stream const stream;
      {
        sp::cuda_queue const queue(stream.get(), 0);
        sp::nccl const self(comm.get(), queue, run.options);
        body(self, comm.get());
        if (fake_nccl::is_alive(comm.get())) queue.synchronize();
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
    for (std::string const& c : fake_nccl::complaints()) FAIL_CHECK(c);
}

} // namespace support
