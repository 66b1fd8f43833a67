// Exchanges under way on a device, in the order of their stream: which have ended, and which has run for longer than its deadline.
// The host never waits: events are asked, in relaxed capture mode, and those of a captured graph are not among them.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include <sp/cuda/capture.hpp>
#include <sp/cuda/events.hpp>
#include <sp/diagnosis/flight_recorder.hpp>

namespace sp::detail {

/// What is told about an exchange that does not end.
struct watched_exchange {
  static constexpr std::size_t most_peers = 8;

  char const* primitive = "";
  int group = 0, rank = 0, size = 1, step = 0; ///< of its group
  flight_recorder::ticket flight = 0;
  std::array<int, most_peers> peers{}; ///< ranks of the group; the first of them
  std::size_t peer_count = 0;          ///< all of them

  void add_peer(int peer) noexcept {
    for (std::size_t i = 0; i < peer_count && i < most_peers; ++i)
      if (peers[i] == peer) return;
    if (peer_count < most_peers) peers[peer_count] = peer;
    ++peer_count;
  }
  /// "rank 2", "ranks 0, 2".
  std::string peers_text() const {
    std::string text = peer_count == 1 ? "rank " : "ranks ";
    for (std::size_t i = 0; i < peer_count && i < most_peers; ++i) text += (i ? ", " : "") + std::to_string(peers[i]);
    return peer_count > most_peers ? text + ", ..." : text;
  }
};

/// Not thread safe: the family locks.
class exchange_watch {
public:
  using clock = std::chrono::steady_clock;

  /// Of an exchange between two points of one stream.
  void add(cuda_event begin, cuda_event end, watched_exchange const& what) {
    if (count_ == ring_.size()) grow();
    ring_[(first_ + count_) % ring_.size()] = {std::move(begin), std::move(end), {}, what};
    ++count_;
  }
  /// Now and then: so many have come since the last look that some should have ended, or some time has passed.
  [[nodiscard]] bool wants_look() const noexcept {
    return count_ >= many_ || (count_ > 0 && clock::now() - looked_ >= std::chrono::milliseconds(10));
  }

  enum class finding { nothing, late, error };
  /// Takes out what has ended, and looks at the first that has not. done(what) is called for each that has ended, waiting(what) for one
  /// that has begun. Of an error of the device `device_error()` tells.
  template <class Done, class Waiting>
  finding look(std::chrono::milliseconds deadline, Done&& done, Waiting&& waiting) {
    looked_ = clock::now();
    for (; count_ > 0; first_ = (first_ + 1) % ring_.size(), --count_) {
      entry& e = ring_[first_];
      cudaError_t const state = query(e.end);
      if (state == cudaErrorNotReady) {
        many_ = count_ + some;
        return look_at_first(e, deadline, waiting);
      }
      if (state != cudaSuccess) return bad_ = state, finding::error;
      done(e.what);
      e.begin = cuda_event();
      e.end = cuda_event();
    }
    many_ = some;
    return finding::nothing;
  }
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  /// The first that has not ended.
  [[nodiscard]] watched_exchange const& first() const { return ring_[first_].what; }
  [[nodiscard]] cudaError_t device_error() const noexcept { return bad_; }

private:
  /// "Not ready" is no error of the caller's, who looks at the runtime's last one behind kernels of his own.
  static cudaError_t query(cuda_event const& e) noexcept {
    cudaError_t const state = cudaEventQuery(e.point()->event);
    if (state == cudaErrorNotReady) static_cast<void>(cudaGetLastError());
    return state;
  }
  struct entry {
    cuda_event begin, end;
    clock::time_point seen{}; ///< when it was seen to have begun
    watched_exchange what;
  };
  template <class Waiting>
  finding look_at_first(entry& e, std::chrono::milliseconds deadline, Waiting& waiting) {
    if (e.seen == clock::time_point{}) {
      cudaError_t const state = query(e.begin);
      if (state == cudaErrorNotReady) return finding::nothing; // work before it is not done
      if (state != cudaSuccess) return bad_ = state, finding::error;
      e.seen = looked_;
    }
    waiting(e.what);
    return looked_ - e.seen >= deadline ? finding::late : finding::nothing;
  }

  /// Work that is given far ahead of the device takes more room; then there is enough.
  void grow() {
    std::vector<entry> larger(std::max(some, 2 * ring_.size()));
    for (std::size_t i = 0; i < count_; ++i) larger[i] = std::move(ring_[(first_ + i) % ring_.size()]);
    ring_ = std::move(larger);
    first_ = 0;
  }

  static constexpr std::size_t some = 32;
  std::vector<entry> ring_; ///< count_ of them in use, from first_ on
  std::size_t first_ = 0, count_ = 0, many_ = some;
  clock::time_point looked_{};
  cudaError_t bad_ = cudaSuccess;
};

} // namespace sp::detail
