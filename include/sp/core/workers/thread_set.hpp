// Threads that help others: who has work offers it, does it himself, and is joined by threads that have nothing else to do.
// Nobody waits for a helper that has not come: work gets done with those that are there, even if all have died.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <sp/core/error.hpp>
#include <sp/core/pause.hpp>

namespace sp::detail {

/// `helpers` threads, and room for the offers of `callers` others at the same time. Between offers they sleep.
class thread_set {
public:
  /// peer_failed if the system does not give that many threads; those that began have ended then.
  thread_set(int helpers, int callers, int spin)
      : spin_(spin), callers_(callers), offers_(std::make_unique<offer[]>(unsigned(callers))) {
    threads_.reserve(std::size_t(helpers));
    bool const all = best_effort([&] {
      for (int i = 0; i < helpers; ++i) threads_.emplace_back([this, i] { help(i); });
    });
    if (all) return;
    std::size_t const began = threads_.size();
    end();
    fail({errc::peer_failed, std::to_string(began) + " of " + std::to_string(helpers) + " threads could be started",
          "Ask for fewer, or raise the limit of the system"});
  }
  thread_set(thread_set const&) = delete;
  thread_set& operator=(thread_set const&) = delete;
  ~thread_set() { end(); }

  /// call(0) ... call(n - 1), at the same time where helpers are free; calls that no helper has begun when call(0) returns are left out.
  template <class Call>
  void run(int n, Call const& call) {
    offer* const mine = open_offer();
    if (!mine) return call(0); // more callers than were announced: each does his own
    mine->call = [](void const* c, int i) { (*static_cast<Call const*>(c))(i); };
    mine->what = &call;
    mine->state.store(std::uint32_t(n - 1) * one_left, std::memory_order_seq_cst);
    wake(n - 1);
    call(0);
    close(*mine);
  }

private:
  static constexpr std::uint32_t one_left = 1U << 16, helpers_of = one_left - 1; // state: calls left, helpers at work
  struct alignas(64) offer {
    std::atomic<std::uint32_t> state{0};
    std::atomic<bool> open{false};
    void (*call)(void const*, int) = nullptr;
    void const* what = nullptr;
  };

  offer* open_offer() noexcept {
    for (int i = 0; i < callers_; ++i) {
      offer& o = offers_[std::size_t(i)];
      if (!o.open.load(std::memory_order_relaxed) && !o.open.exchange(true, std::memory_order_acquire)) return &o;
    }
    return nullptr;
  }

  /// Nobody joins any more; returns when those who did have gone.
  void close(offer& o) noexcept {
    std::uint32_t at_work = o.state.fetch_and(helpers_of, std::memory_order_acquire) & helpers_of;
    for (int polls = spin_; at_work != 0; at_work = o.state.load(std::memory_order_acquire))
      if (polls-- > 0)
        pause_briefly();
      else
        o.state.wait(at_work, std::memory_order_acquire);
    o.open.store(false, std::memory_order_release);
  }

  /// Does a call of somebody's offer, if there is one.
  bool join_in(int first) noexcept {
    for (int i = 0; i < callers_; ++i) {
      offer& o = offers_[std::size_t((first + i) % callers_)];
      std::uint32_t s = o.state.load(std::memory_order_seq_cst);
      while (s >= one_left && !o.state.compare_exchange_weak(s, s - one_left + 1, std::memory_order_acquire)) {
      }
      if (s < one_left) continue;
      o.call(o.what, int(s / one_left));
      if (((o.state.fetch_sub(1, std::memory_order_release) - 1) & helpers_of) == 0) o.state.notify_one();
      return true;
    }
    return false;
  }

  void help(int number) noexcept {
    for (int polls = spin_; !ended_.load(std::memory_order_acquire);) {
      if (join_in(number % callers_))
        polls = spin_;
      else if (polls-- > 0)
        pause_briefly();
      else {
        sleep(number);
        polls = spin_;
      }
    }
  }

  /// Whoever offers something stores it and then looks for sleepers; who falls asleep counts himself and then looks for offers.
  void sleep(int number) noexcept {
    std::uint32_t const seen = bell_.load(std::memory_order_seq_cst);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    if (!ended_.load(std::memory_order_seq_cst) && !join_in(number % callers_)) bell_.wait(seen, std::memory_order_seq_cst);
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

  void wake(int helpers) noexcept {
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    bell_.fetch_add(1, std::memory_order_seq_cst);
    helpers == 1 ? bell_.notify_one() : bell_.notify_all();
  }

  void end() noexcept {
    ended_.store(true, std::memory_order_seq_cst);
    bell_.fetch_add(1, std::memory_order_seq_cst);
    bell_.notify_all();
    for (std::thread& t : threads_) t.join();
  }

  int const spin_, callers_;
  std::unique_ptr<offer[]> offers_;
  std::atomic<bool> ended_{false};
  alignas(64) std::atomic<std::uint32_t> bell_{0};
  std::atomic<int> sleepers_{0};
  std::vector<std::thread> threads_;
};

} // namespace sp::detail
