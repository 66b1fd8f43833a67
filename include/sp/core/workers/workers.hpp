// sp::workers: a queue on threads of its own, which sleep between calls. Ranks of one process may share them.
// Results are the same bits for any number of threads; they end with the last copy of the queue.
#pragma once

#include <sp/core/workers/host_queue.hpp>
#include <sp/core/workers/thread_set.hpp>

#if defined(__linux__)
#include <sched.h>
#endif

namespace sp {

/// Numbers of sp::workers.
struct workers_options {
  int ranks = 1; ///< how many ranks of this process, or other threads, use them at the same time; each of these computes as well
  int spin = 1000; ///< polls before a thread falls asleep, 0 to a billion; threads that outnumber the cores never poll
  index_t smallest_share = 8192; ///< elements, terms of sums, or 64 bytes of a copy: what another thread is asked for at least
};

/// A task_queue. The count includes the callers: sp::workers{4} starts three, and sp::workers{8, {.ranks = 2}} six, which help whichever of
/// two ranks has work: of 8 threads no ninth ever runs. A handle: copies are the same threads, and any thread may use any copy.
class workers : public detail::host_queue<workers> {
public:
  static constexpr int all_cores = 0; ///< those that this process may run on

  /// bad_state for numbers that make no sense, peer_failed if the system gives fewer threads. Fewer threads than ranks are none beside
  /// the ranks: each does its own.
  explicit workers(int count = all_cores, workers_options options = {}) {
    if (count < 0 || count > most || options.ranks < 1 || options.ranks > most)
      fail({errc::bad_state, std::to_string(count) + " threads for " + std::to_string(options.ranks) + " ranks were asked for",
            "Give 1 to " + std::to_string(most) + " threads, or 0 for all cores, and one rank at least"});
    if (options.spin < 0 || options.spin > 1'000'000'000)
      fail({errc::bad_state, std::to_string(options.spin) + " polls were asked for (spin)", "Give 0 to a billion"});
    if (options.smallest_share < 1)
      fail({errc::bad_state, "shares of " + std::to_string(options.smallest_share) + " elements were asked for",
            "Give 1 at least"});
    smallest_share_ = options.smallest_share;
    int const here = cores();
    if (count == all_cores) count = here;
    int const helpers = count > options.ranks ? count - options.ranks : 0;
    threads_ = 1 + (helpers + options.ranks - 1) / options.ranks;
    if (helpers > 0) set_ = std::make_shared<detail::thread_set>(helpers, options.ranks, count <= here ? options.spin : 0);
  }

  /// How many threads one call uses at most: its share, rounded up.
  [[nodiscard]] int threads() const noexcept { return threads_; }

  /// See workers_options.
  [[nodiscard]] index_t smallest_share() const noexcept { return smallest_share_; }

  /// Cores that this process may run on.
  [[nodiscard]] static int cores() {
    int n = int(std::thread::hardware_concurrency());
#if defined(__linux__)
    cpu_set_t set;
    if (::sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
#endif
    return n > 0 ? n : 1;
  }

private:
  friend detail::host_queue<workers>;
  static constexpr int most = 4096;

  template <class Call>
  void run(int n, Call const& call) const {
    set_->run(n, call);
  }

  std::shared_ptr<detail::thread_set> set_; ///< null: no thread but the caller's
  int threads_ = 1;
  index_t smallest_share_;
};

static_assert(task_queue<workers>);

} // namespace sp
