// What ranks on several devices, and threads beside a capture, ask of a CUDA queue: access to memory, calls that disturb nobody, errors
// that stay whose they are. Over a fake of the runtime that is as strict as CUDA about them.
// needs: context cuda
// with all: takes long to compile
#include <doctest/doctest.h>

#include <map>
#include <optional>
#include <thread>

#include "cuda/place.hpp"
#include "support/failure.hpp"

namespace test_devices {

using namespace cuda_tests;
using sp::errc;
using sp::piece;
using support::failure_of;
using support::says;

namespace {

/// Memory of a device as most trainers take it.
struct plain_block {
  void* data = nullptr;
  explicit plain_block(int device, int ints) {
    REQUIRE(cudaSetDevice(device) == cudaSuccess);
    REQUIRE(cudaMalloc(&data, std::size_t(ints) * sizeof(int)) == cudaSuccess);
    REQUIRE(cudaSetDevice(0) == cudaSuccess);
  }
  plain_block(plain_block const&) = delete;
  ~plain_block() { cudaFree(data); }
  sp::view<int, 1, device_memory> ints(index_t n) const { return {static_cast<int*>(data), n}; }
};

/// Four of each eight integers: work for a kernel.
piece some_of(sp::view<int, 1, device_memory> x, index_t n) {
  return sp::as_piece(sp::view<int, 3, device_memory>(x.data, {n / 8, 2, 2}, {8, 3, 1}));
}

/// Accesses to shared memory between two barriers, by thread.
struct accesses {
  static inline std::map<void const*, std::vector<int>> read, written;
  static inline int thread = 0, epoch = 0, races = 0;
  static inline std::map<int, int> epochs;

  static void begin(int t) { thread = t, epoch = epochs[t]; }
  static void note(std::map<void const*, std::vector<int>>& mine, void const* p, bool writes) {
    int const stamp = epoch * 1000 + thread;
    auto others = [&](auto const& list) {
      auto const found = list.find(p);
      return found != list.end() && found->second.back() / 1000 == epoch && found->second.back() != stamp;
    };
    races += others(written) || (writes && others(read));
    mine[p].push_back(stamp);
  }
};
/// A number that notes who reads and writes it.
struct noted {
  double value = 0;
  noted() = default;
  explicit noted(double x) : value(x) {}
  noted(noted const& o) : value(o.value) { accesses::note(accesses::read, &o, false); }
  noted& operator=(noted const& o) {
    accesses::note(accesses::read, &o, false);
    accesses::note(accesses::written, this, true);
    value = o.value;
    return *this;
  }
  friend noted operator+(noted const& a, noted const& b) {
    accesses::note(accesses::read, &a, false);
    accesses::note(accesses::read, &b, false);
    return noted(a.value + b.value);
  }
};
/// A block whose barriers are noted.
template <class Block>
struct noted_block {
  Block& b;
  int thread() const { return b.thread(); }
  index_t index() const { return b.index(); }
  template <class T>
  T* shared(index_t offset) {
    return b.template shared<T>(offset);
  }
  void barrier() {
    b.barrier();
    ++accesses::epochs[b.thread()];
    accesses::begin(b.thread());
  }
};
struct ones {
  noted operator()(index_t, index_t) const { return noted(1); }
};
struct store_noted {
  double* to;
  void operator()(index_t, noted const& x) const { *to = x.value; }
};
struct noted_sums {
  static constexpr int threads = sp::detail::sum_groups::threads;
  sp::detail::whole_sums<noted, ones, store_noted> sums;
  template <class Block>
  void operator()(Block& b) const {
    accesses::begin(b.thread());
    noted_block<Block> mine{b};
    sums(mine);
  }
};

} // namespace

TEST_CASE("cuda devices: ranks of two devices use each other's memory of cudaMalloc in kernels [asan]") {
  fake_cuda::peer_access(true);
  constexpr int n = 40;
  for (int again = 0; again < 2; ++again) { // the second time access has been given
    stream const streams[2] = {stream(1), stream(2, interleaving::random, 1)};
    plain_block const from[2] = {plain_block(0, n), plain_block(1, n)}, to[2] = {plain_block(0, n), plain_block(1, n)};
    std::vector<int> got[2];
    sp::cuda_local::run(
        2,
        [&](sp::cuda_local const& comm) {
          auto const me = std::size_t(comm.rank());
          auto const& queue = comm.queue();
          auto const mine = from[me].ints(n), result = to[me].ints(n);
          auto const values = counted_from(100 * comm.rank(), n);
          queue.upload(static_cast<std::byte*>(from[me].data), std::as_bytes(std::span(values)));
          piece const shown = some_of(mine, n), here = some_of(result, n);
          auto publication = comm.publish("test", {&shown, 1});
          queue.copy({&here, 1}, publication.of(1 - comm.rank()));
          publication.release();
          got[me].resize(n);
          sp::detail::read_now(queue, sp::view<int, 1>(got[me].data(), n), result);
          CHECK(cudaPeekAtLastError() == cudaSuccess); // of access that had been given before, too
        },
        {}, [&](int rank) { return cuda_queue(streams[rank].handle, rank); });
    for (std::size_t r = 0; r < 2; ++r)
      for (std::size_t i = 0; i < n; ++i)
        if (i % 8 < 5 && i % 8 != 2) REQUIRE(got[r][i] == int(100 * (1 - r) + i));
  }
}

TEST_CASE("cuda devices: ranks whose devices cannot reach each other are refused, and a kernel without access fails") {
  fake_cuda::peer_access(false);
  {
    stream const streams[2] = {stream(1), stream(2, interleaving::random, 1)};
    auto const e = failure_of([&] {
      sp::cuda_local::run(
          2, [](sp::cuda_local const& comm) { comm.barrier(); }, {},
          [&](int rank) { return cuda_queue(streams[rank].handle, rank); });
    });
    CHECK(says(e, errc::unsupported, "cannot reach the memory of device", "rank 0 works", "rank 1 works"));
    CHECK(e.remedy.find("sp::nccl") != std::string::npos);
  }
  place p(3, interleaving::random, 1);
  plain_block const far(0, 8), near(1, 8);
  p.queue.for_each(std::array<index_t, 1>{8}, set{near.ints(8), 3});
  p.queue.synchronize();
  p.queue.for_each(std::array<index_t, 1>{8}, set{far.ints(8), 3});
  CHECK(says(failure_of([&] { p.queue.synchronize(); }), errc::backend_error, "cudaErrorIllegalAddress"));
  fake_cuda::fail_device(cudaSuccess);
  fake_cuda::peer_access(true);
  // kernels are launched on the device of their stream
  auto const wrong = failure_of([&] {
    sp::detail::launch(p.handle, sp::detail::each_index<1, set>{{}, {sp::detail::divider(1)}, 1, {near.ints(8), 4}}, 1, 0);
  });
  CHECK(says(wrong, errc::backend_error, "cudaLaunchKernelEx: cudaErrorInvalidResourceHandle"));
}

TEST_CASE("cuda devices: a queue that is made, uploads and goes while another thread captures does not end the capture") {
  place p(1);
  auto x = p.block(counted_from(0, 10));
  p.queue.synchronize();
  stream before(2), other(3);
  std::optional<place> q(2u);
  auto y = std::make_optional(q->block<int>(index_t(sp::detail::cuda_staging::half_bytes)));
  q->queue.synchronize();
  long const pinned = fake_cuda::calls("cudaHostAlloc");
  graph const g(p.handle, [&] { // in the global mode
    p.queue.for_each(std::array<index_t, 1>{10}, increase{x.tensor});
    std::string failed;
    std::thread([&] {
      try {
        auto const values =
            counted_from(0, sp::detail::cuda_staging::half_bytes); // more than there is room for: waits for the device
        q->queue.upload(reinterpret_cast<std::byte*>(y->tensor.data), std::as_bytes(std::span(values)));
        CHECK(fake_cuda::calls("cudaHostAlloc") == pinned); // taken before
        cuda_queue(other.handle, 0)
            .upload(reinterpret_cast<std::byte*>(y->tensor.data), std::as_bytes(std::span(values).first(8)));
      } catch (sp::error const& e) {
        failed = e.what();
      }
    }).join();
    CHECK(failed == "");
  });
  REQUIRE(g.end() == cudaSuccess);
  g.launch(p.handle);
  CHECK(p.read(x.tensor) == counted_from(1, 10));
}

TEST_CASE("cuda devices: the last handle of a queue may go while its stream is being captured") {
  stream s(1);
  std::optional<cuda_queue> q(cuda_queue(s.handle, 0));
  q->synchronize();
  graph const g(s.handle, [&] { q.reset(); });
  CHECK(g.end() == cudaSuccess);
  CHECK(cudaPeekAtLastError() == cudaSuccess);
}

TEST_CASE(
    "cuda devices: what fails where memory and streams are given back is not the caller's error, nor is the caller's ours") {
  for (char const* call : {"cudaStreamDestroy", "cudaFreeAsync", "cudaEventDestroy", "cudaFreeHost", "cudaMemPoolDestroy"}) {
    INFO(call);
    {
      place p(1);
      auto const e = p.queue.record();
      p.queue.synchronize();
      fake_cuda::fail_call(call, cudaErrorLaunchFailure);
    }
    CHECK(cudaGetLastError() == cudaSuccess);
  }
  place p(1);
  sp::device_pool empty(p.queue, {nullptr, [](void*, std::size_t, cudaStream_t) -> void* { return nullptr; },
                                  [](void*, void*, std::size_t, cudaStream_t) {}});
  CHECK(cudaFreeAsync(&p, p.handle) == cudaErrorInvalidValue); // the caller's, who has not looked at it yet
  CHECK(says(failure_of([&] { return empty.allocate(8); }), errc::backend_error, "device_memory_functions.allocate"));
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
}

TEST_CASE("cuda devices: a pool may leave its memory to its own device") {
  place p(1);
  long const before = fake_cuda::calls("cudaMemPoolSetAccess");
  sp::device_pool const own(p.queue, {.peers = false});
  CHECK(fake_cuda::calls("cudaMemPoolSetAccess") == before);
  sp::device_pool const open(p.queue);
  CHECK(fake_cuda::calls("cudaMemPoolSetAccess") > before);
}

TEST_CASE("cuda devices: threads that sum share memory without races") {
  double sum = 0;
  sp::detail::sum_groups const groups(9000); // three of them
  support::run_grid(noted_sums{{groups, {}, {&sum}}}, 1, groups.threads * index_t(sizeof(noted)), {.seed = 3});
  CHECK((sum == 9000 && groups.count == 3 && accesses::epochs[5] > 20));
  CHECK(accesses::races == 0);
}

} // namespace test_devices
