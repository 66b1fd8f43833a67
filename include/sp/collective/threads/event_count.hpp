// What a rank that is a thread sleeps on: a counter of events that others raise, and a way to wait until it moves.
// An event between reading the counter and waiting is never missed; raising one costs an atomic addition while nobody sleeps.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace sp::detail {

/// Of one rank. Whoever changes something that the rank may wait for changes it first and notifies afterwards; the rank reads the
/// count first, then looks at what it waits for, then waits for another count.
class alignas(64) event_count {
public:
  std::uint32_t count() const noexcept { return events_.load(std::memory_order_seq_cst); }

  void notify() noexcept {
    events_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return; // a sleeper counts itself before it looks at events_
    std::lock_guard lock(mutex_);
    woken_.notify_all();
  }

  /// Returns when the count is not `seen` any more, at `until` at the latest.
  void wait(std::uint32_t seen, std::chrono::steady_clock::time_point until) {
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    woken_.wait_until(lock, until, [&] { return count() != seen; });
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

private:
  std::atomic<std::uint32_t> events_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable woken_;
};

} // namespace sp::detail
