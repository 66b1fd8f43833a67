// What the ranks of one threads::run share: doorbells to wait on, the deadline, and the first failure, which ends them all.
// A wait ends by its condition, by a failure of any rank, or at the deadline; nothing here waits for ever and nothing is lost.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sp/diagnosis/flight_recorder.hpp>

namespace sp {

/// Numbers of a threads::run.
struct threads_options {
  std::chrono::milliseconds deadline =
      std::chrono::minutes(10); ///< longest wait for a peer before `timeout`; above 0, at most a year
  int spin = 1000;              ///< polls before a wait blocks; ranks that outnumber the cores never poll
  int flight_records = 64;      ///< operations that the flight recorder of each rank holds; 0: nothing is recorded
};

namespace detail {

inline void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

/// Wakes one rank. Whoever changes something that the rank may wait for changes it first and rings afterwards.
class alignas(64) doorbell {
public:
  std::uint32_t heard() const noexcept { return rings_.load(std::memory_order_seq_cst); }

  void ring() noexcept {
    rings_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return; // a sleeper counts itself before it looks at rings_
    std::lock_guard lock(mutex_);
    woken_.notify_all();
  }

  /// Returns at the first ring after `heard` was read, at `until` at the latest.
  void sleep(std::uint32_t heard, std::chrono::steady_clock::time_point until) {
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    woken_.wait_until(lock, until, [&] { return this->heard() != heard; });
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

private:
  std::atomic<std::uint32_t> rings_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable woken_;
};

/// Why a family ended.
struct failure {
  error_info info;                ///< as the rank that found it reports it
  std::exception_ptr thrown = {}; ///< what run() rethrows; empty means error(info)
  std::string why = {};           ///< for the others' messages; empty means describe(info)
  int world = -1;                 ///< the rank of run() that failed
  void const* group = nullptr;    ///< where ranks `one` and `other` see info.code themselves; all the others see `aborted`
  int one = -1, other = -1;
  bool provisional = false; ///< a token died in an unwinding stack: the exception behind it is not known yet
};

class thread_family {
public:
  thread_family(int ranks, threads_options options)
      : ranks_(ranks), options_(options), spin_(unsigned(ranks) <= std::thread::hardware_concurrency() ? options.spin : 0),
        bells_(std::make_unique<doorbell[]>(std::size_t(ranks))),
        returned_(std::make_unique<std::atomic<bool>[]>(std::size_t(ranks))) {
    int const number = flight_recorder::new_family();
    for (int r = 0; r < ranks; ++r)
      recorders_.push_back(std::make_shared<flight_recorder>(r, ranks, options.flight_records, number));
  }

  int ranks() const { return ranks_; }
  std::chrono::milliseconds deadline() const { return options_.deadline; }
  doorbell& bell(int world) { return bells_[std::size_t(world)]; }
  std::shared_ptr<flight_recorder> const& recorder(int world) const { return recorders_[std::size_t(world)]; }
  /// A number for a new group; 0 is the group of run().
  int new_group() { return groups_.fetch_add(1, std::memory_order_relaxed); }
  bool failed() const noexcept { return failed_.load(std::memory_order_seq_cst); }

  /// A rank whose body has returned will never answer again.
  void returned(int world) { returned_[std::size_t(world)].store(true, std::memory_order_release); }
  bool has_returned(int world) const { return returned_[std::size_t(world)].load(std::memory_order_acquire); }

  /// The first failure is the cause; later ones are its consequences and change nothing. `aborted` is always a consequence.
  /// Flight records are taken before anybody else learns of it, so that they show where each rank was, also one that hangs.
  void fail(failure f) {
    if (!f.thrown) f.thrown = std::make_exception_ptr(error(f.info));
    if (f.why.empty()) f.why = describe(f.info);
    std::vector<std::string> records;
    int const reporter = std::max(f.world, 0);
    bool news = false;
    {
      std::lock_guard lock(mutex_);
      if (!failed()) {
        cause_ = std::move(f);
        records = flight_records();
        news = true;
        failed_.store(true, std::memory_order_seq_cst);
      } else if (cause_.provisional && !f.provisional && f.world == cause_.world && f.info.code != errc::aborted) {
        cause_.thrown = std::move(f.thrown); // the exception that destroyed the token has arrived
        cause_.why = std::move(f.why);
        cause_.provisional = false;
        records = flight_records();
      }
    }
    for (int r = 0; r < ranks_; ++r) bell(r).ring();
    for (std::size_t r = 0; r < records.size(); ++r) recorders_[r]->dump(records[r]);
    if (news) recorders_[std::size_t(reporter)]->log_failure(cause().why);
  }

  failure cause() const {
    std::lock_guard lock(mutex_);
    return cause_;
  }

  /// Waits on the bell of `world` until `done()` holds. `inspect()` runs now and then while nothing happens: it looks for peers
  /// that can never answer. Returns false when the family failed; at the deadline `late()` is told, and must fail the family.
  template <class Done, class Inspect, class Late>
  bool wait(int world, Done&& done, Inspect&& inspect, Late&& late) {
    doorbell& mine = bell(world);
    for (int polls = spin_;;) {
      std::uint32_t const heard = mine.heard();
      if (done()) return true;
      if (failed()) return false;
      while (polls > 0 && mine.heard() == heard) {
        if (--polls % 64 == 0)
          std::this_thread::yield(); // the peer may be runnable on this very core
        else
          relax();
      }
      if (polls == 0) return block(mine, heard, done, inspect, late);
    }
  }

private:
  /// Of all ranks, if the settings ask for files.
  std::vector<std::string> flight_records() const {
    std::vector<std::string> texts;
    if (flight_recorder::dumps())
      for (auto const& r : recorders_) texts.push_back(r->json(&cause_.info, cause_.why, cause_.world));
    return texts;
  }

  static constexpr auto quiet = std::chrono::milliseconds(20);

  template <class Done, class Inspect, class Late>
  bool block(doorbell& mine, std::uint32_t heard, Done& done, Inspect& inspect, Late& late) {
    auto const end = std::chrono::steady_clock::now() + options_.deadline;
    for (;;) {
      auto const slice = std::min(std::chrono::steady_clock::now() + quiet, end);
      mine.sleep(heard, slice);
      bool const silence = mine.heard() == heard;
      heard = mine.heard();
      if (done()) return true;
      if (failed()) return false;
      if (silence) inspect();
      if (!failed() && std::chrono::steady_clock::now() >= end) late();
      if (failed()) return false;
    }
  }

  int ranks_;
  threads_options options_;
  int spin_;
  std::unique_ptr<doorbell[]> bells_;
  std::unique_ptr<std::atomic<bool>[]> returned_;
  std::vector<std::shared_ptr<flight_recorder>> recorders_;
  std::atomic<int> groups_{0};
  std::atomic<bool> failed_{false};
  mutable std::mutex mutex_;
  failure cause_{};
};

} // namespace detail
} // namespace sp
