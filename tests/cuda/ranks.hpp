// A world of the conformance trials whose ranks work on CUDA queues, of a device or of a fake (place.hpp), two on one device, two on the next.
// The trial's steps are those of conformance/elsewhere.hpp: nothing here knows what an object does.
#pragma once

#include <memory>
#include <vector>

#include "conformance/elsewhere.hpp"
#include "cuda/place.hpp"
#include "support/places.hpp"

namespace cuda_tests {

/// A device_pool that counts, and knows its queue.
class counted_pool final : public sp::basic_allocator<device_memory> {
public:
  using memory_type = device_memory;
  explicit counted_pool(cuda_queue queue) : queue_(queue), pool_(std::move(queue)) {}
  cuda_queue const& queue() const { return queue_; }
  int blocks_out() const { return out_; }
  void* allocate(std::size_t bytes) override {
    ++out_;
    return pool_.allocate(bytes);
  }
  void deallocate(void* p, std::size_t bytes) noexcept override {
    --out_;
    pool_.deallocate(p, bytes);
  }

private:
  cuda_queue queue_;
  sp::device_pool pool_;
  int out_ = 0;
};

/// Nothing runs on the queue, nor on its lane.
struct hold_of_queue : held_streams {
  explicit hold_of_queue(cuda_queue const& q) : held_streams({q.stream(), q.lane().stream()}) {}
};

/// Streams of ranks, as a caller has them: they outlive the queues.
class rank_streams {
public:
  rank_streams(int ranks, unsigned seed, interleaving how) : seed_(seed), how_(how) {
    for (int r = 0; r < ranks; ++r) all_.push_back(std::make_unique<stream>(seed_of(r), how, device_of(r)));
  }
  /// What sp::cuda_local::run makes a rank's queue by.
  cuda_queue operator()(int rank) const {
    streams_of(seed_of(rank) + 1, how_); // the lane's
    return {all_[std::size_t(rank)]->handle, device_of(rank)};
  }
  cudaStream_t of(int rank) const { return all_[std::size_t(rank)]->handle; }

private:
  static int device_of(int rank) { return rank / 2 % device_count(); }
  unsigned seed_of(int rank) const { return seed_ * 32 + 2 * unsigned(rank) + 1; }
  unsigned seed_;
  interleaving how_;
  std::vector<std::unique_ptr<stream>> all_;
};

/// As conformance::in_threads.
struct in_cuda_threads {
  static constexpr bool peers_share_memory = true;
  unsigned seed;
  interleaving how;

  template <class T, class Body>
  void run(int ranks, conformance::outcome<T>& to, Body const& body) const {
    rank_streams const streams(ranks, seed, how);
    sp::cuda_local::run(
        ranks, [&](sp::cuda_local const& comm) { body(comm, to); }, conformance::patient(),
        [&](int rank) { return streams(rank); });
  }
};

/// A rank for programs that run on any place, see support/places.hpp.
struct rank_place {
  using ranks = sp::cuda_local;
  struct hold : hold_of_queue {
    explicit hold(rank_place const& p) : hold_of_queue(p.comm.queue()) {}
  };

  ranks const& comm;
  counted_pool memory;
  explicit rank_place(ranks const& c) : comm(c), memory(c.queue()) {}
  auto context() { return sp::context(comm.queue(), memory, memory); }
  template <class Body>
  static void start(int parts, Body const& body, interleaving how, unsigned seed) {
    rank_streams const streams(parts, seed, how);
    ranks::run(parts, body, {}, [&](int r) { return streams(r); });
  }

  template <class T, int R>
  struct tensor : support::pool_tensor<T, R, counted_pool> {
    tensor(rank_place& p, std::array<index_t, std::size_t(R)> e, std::vector<T> v)
        : support::pool_tensor<T, R, counted_pool>(p.memory, e, v) {}
  };
};

} // namespace cuda_tests

template <>
struct conformance::device<sp::device_memory> {
  using queue = sp::cuda_queue;
  using pool = cuda_tests::counted_pool;
  using hold = cuda_tests::hold_of_queue;
  /// One of the thread's, for as long as it lives.
  static queue any_queue() {
    static thread_local cuda_tests::place here;
    return here.queue;
  }
};
