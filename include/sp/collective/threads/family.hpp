// What the ranks of one threads::run share: the events they wait for, the deadline, and the first failure, which ends them all.
// A wait ends by its condition, by a failure of any rank, or at the deadline; nothing here waits for ever and nothing is lost.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <sp/collective/family/failure.hpp>
#include <sp/collective/threads/event_count.hpp>
#include <sp/core/pause.hpp>
#include <sp/diagnosis/flight_recorder.hpp>

namespace sp {

/// Numbers of a threads::run.
struct threads_options {
  std::chrono::milliseconds deadline =
      std::chrono::minutes(10); ///< longest wait for a peer before `timeout`; above 0, at most a year
  int spin = 1000;              ///< polls before a wait blocks, 0 to a billion; ranks that outnumber the cores never poll
  int flight_records = 64;      ///< operations that the flight recorder of each rank holds; 0: nothing is recorded
};

namespace detail {

class thread_family {
public:
  using time = std::chrono::steady_clock::time_point;

  thread_family(int ranks, threads_options options)
      : ranks_(ranks), options_(options), spin_(unsigned(ranks) <= std::thread::hardware_concurrency() ? options.spin : 0),
        events_(std::make_unique<event_count[]>(std::size_t(ranks))),
        returned_(std::make_unique<std::atomic<bool>[]>(std::size_t(ranks))),
        grace_(std::make_unique<std::atomic<time>[]>(std::size_t(ranks))) {
    int const number = flight_recorder::new_family();
    for (int r = 0; r < ranks; ++r)
      recorders_.push_back(std::make_shared<flight_recorder>(r, ranks, options.flight_records, number));
  }

  int ranks() const noexcept { return ranks_; }
  std::chrono::milliseconds deadline() const noexcept { return options_.deadline; }
  std::shared_ptr<flight_recorder> const& recorder(int world) const { return recorders_[std::size_t(world)]; }
  /// A number for a new group; 0 is the group of run().
  int new_group() noexcept { return groups_.fetch_add(1, std::memory_order_relaxed); }
  bool failed() const noexcept { return failed_.load(std::memory_order_seq_cst); }

  /// Something that the rank may wait for has changed.
  void notify(int world) noexcept { events_[std::size_t(world)].notify(); }
  /// A rank whose body has returned will never answer again.
  void set_returned(int world) noexcept { returned_[std::size_t(world)].store(true, std::memory_order_release); }
  bool has_returned(int world) const noexcept { return returned_[std::size_t(world)].load(std::memory_order_acquire); }

  /// Ends the family, see cause_of_end. Everybody is told first. Then the flight records of all ranks are written as they were at
  /// that moment, those of ranks that hang too.
  void fail(failure f) noexcept {
    if (!f.thrown) best_effort([&] { f.thrown = std::make_exception_ptr(error(f.info)); });
    int const reporter = std::max(f.world, 0);
    auto change = cause_of_end::change::none;
    {
      std::lock_guard lock(mutex_);
      change = cause_.add(std::move(f));
      if (change == cause_of_end::change::first)
        for (auto const& r : recorders_) r->mark_failure();
      failed_.store(true, std::memory_order_seq_cst);
    }
    for (int r = 0; r < ranks_; ++r) notify(r);
    if (change == cause_of_end::change::none) return;
    best_effort([&] { write_flight_records(cause()); });
    if (change == cause_of_end::change::first) best_effort([&] { recorders_[std::size_t(reporter)]->log_failure(cause().why); });
  }
  /// The same for a destructor of rank `world`: `make` gives the failure, or there is no memory for one; then it has `fallback`,
  /// 15 characters at most.
  template <class Make>
  void fail_in_destructor(int world, char const* fallback, Make&& make) noexcept {
    fail(failure_in_destructor(world, fallback, make));
  }

  failure cause() const {
    std::lock_guard lock(mutex_);
    return cause_.get();
  }
  /// True for a failure that no operation could tell the rank that caused it: run() throws it although every body returned normally.
  bool unreported() const {
    std::lock_guard lock(mutex_);
    return cause_.known() && cause_.get().unreported;
  }
  /// Throws the cause: the exception itself, if there was memory to keep it.
  [[noreturn]] void throw_cause() const {
    failure const f = cause();
    if (f.thrown) std::rethrow_exception(f.thrown);
    sp::fail(f.info);
  }

  /// When a wait that begins now is too long.
  time end_of_wait() const noexcept { return std::chrono::steady_clock::now() + options_.deadline; }
  /// Until when rank `world` waits for peers that may still use what it has shown, after a failure: the first `end` it gives here
  /// holds for all its publications.
  time end_of_grace(int world, time end) noexcept {
    time before{};
    return grace_[std::size_t(world)].compare_exchange_strong(before, end) ? end : before;
  }

  /// Waits in the name of rank `world` until `done()` holds. `inspect()` runs now and then while nothing happens: it looks for peers
  /// that can never answer. Returns false when the family failed; at the deadline `late()` is called, and must fail the family.
  template <class Done, class Inspect, class Late>
  [[nodiscard]] bool wait(int world, Done&& done, Inspect&& inspect, Late&& late) {
    event_count& events = events_[std::size_t(world)];
    time end{}; // set when the wait has lasted a while: most end before
    for (int polls = spin_;;) {
      std::uint32_t const seen = events.count();
      if (done()) return true;
      if (failed()) return false;
      while (polls > 0 && events.count() == seen) {
        if (--polls % 64 != 0) {
          pause_briefly();
          continue;
        }
        std::this_thread::yield(); // the peer may be runnable on this very core
        if (end == time{})
          end = end_of_wait();
        else if (std::chrono::steady_clock::now() >= end)
          polls = 0;
      }
      if (polls == 0) return block(events, seen, end == time{} ? end_of_wait() : end, done, inspect, late);
    }
  }

private:
  void write_flight_records(failure const& cause) const {
    if (!flight_recorder::dumps()) return;
    for (auto const& r : recorders_) best_effort([&] { r->dump(r->json(&cause.info, cause.why, cause.world)); });
  }

  static constexpr auto quiet = std::chrono::milliseconds(20);

  template <class Done, class Inspect, class Late>
  [[nodiscard]] bool block(event_count& events, std::uint32_t seen, time end, Done& done, Inspect& inspect, Late& late) {
    for (;;) {
      auto const look_again = std::min(std::chrono::steady_clock::now() + quiet, end);
      events.wait(seen, look_again);
      bool const silence = events.count() == seen;
      seen = events.count();
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
  std::unique_ptr<event_count[]> events_;
  std::unique_ptr<std::atomic<bool>[]> returned_;
  std::unique_ptr<std::atomic<time>[]> grace_;
  std::vector<std::shared_ptr<flight_recorder>> recorders_;
  std::atomic<int> groups_{0};
  std::atomic<bool> failed_{false};
  mutable std::mutex mutex_; ///< guards cause_
  cause_of_end cause_{};
};

} // namespace detail
} // namespace sp
