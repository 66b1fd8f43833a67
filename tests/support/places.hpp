// A rank for tests that run twice: with host memory on the caller's thread, and with work that is done later in another memory.
// Both have a communicator, memory, a context and tensors of the same shape, so that one body gives the results of either.
#pragma once

#include <sp/core/context.hpp>
#include <sp/local.hpp>
#include <sp/threads.hpp>

#include "support/late_queue.hpp"

namespace support {

/// Host memory on the caller's thread.
struct host_place {
  using ranks = sp::threads;
  struct hold {
    explicit hold(host_place const&) {}
    void end() {}
  };

  ranks const& comm;
  sp::pool memory{};
  explicit host_place(ranks const& c) : comm(c) {}
  auto context() { return sp::context(memory, memory); }
  template <class Body>
  static void start(int parts, Body const& body, interleaving, unsigned) {
    ranks::run(parts, body);
  }

  template <class T, int R>
  struct tensor {
    std::vector<T> values;
    std::array<sp::index_t, std::size_t(R)> extents;
    tensor(host_place&, std::array<sp::index_t, std::size_t(R)> e, std::vector<T> v) : values(std::move(v)), extents(e) {}
    sp::view<T, R> operator*() { return {values.data(), extents}; }
    std::vector<T> download() const { return values; }
  };
};

/// Work that is done later, in memory that the host cannot touch.
struct late_place {
  using ranks = sp::local<late_queue>;
  /// While it lives nothing of the queue runs, and waiting for its work is an error.
  struct hold : late_queue::hold {
    explicit hold(late_place const& p) : late_queue::hold(p.comm.queue()) {}
  };

  ranks const& comm;
  elsewhere_pool memory;
  explicit late_place(ranks const& c) : comm(c), memory(c.queue()) {}
  auto context() { return sp::context(comm.queue(), memory, memory); }
  template <class Body>
  static void start(int parts, Body const& body, interleaving how, unsigned seed) {
    ranks::run(parts, body, {}, [=](int r) { return late_queue(seed * 8 + unsigned(r), how); });
  }

  template <class T, int R>
  struct tensor : elsewhere_tensor<T, R> {
    tensor(late_place& p, std::array<sp::index_t, std::size_t(R)> e, std::vector<T> v) : elsewhere_tensor<T, R>(p.memory, e, v) {}
  };
};

/// body(rank's place) on `parts` ranks; the results in their order. On late places queues take turns with their lanes as `how` says.
template <class Place, class Body>
auto on_all_ranks(int parts, Body&& body, interleaving how = interleaving::random, unsigned seed = 1) {
  using result = decltype(body(std::declval<Place&>()));
  std::vector<result> all(static_cast<std::size_t>(parts));
  auto run = [&](auto const& comm) {
    Place here(comm);
    all[std::size_t(comm.rank())] = body(here);
    comm.barrier(); // memory outlives what others have queued on it
  };
  Place::start(parts, run, how, seed);
  return all;
}

} // namespace support
