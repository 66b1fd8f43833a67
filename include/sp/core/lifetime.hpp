// Whether an object or one of its copies still lives, for those who keep something that nobody else can use.
// Two counts on the heap, and nothing at all until begin(); counted atomically, as copies may live in several threads.
#pragma once

#include <cstddef>
#include <utility>

namespace sp::detail {

struct lifetime_counts { // changed by builtins: <atomic> costs every header that includes this one
  std::size_t lives = 0, handles = 0;
};

/// A part of one life, or (Lives = false) somebody who watches it. Empty until begun; copies take part in the same life.
template <bool Lives>
class lifetime_handle {
public:
  lifetime_handle() = default;
  static lifetime_handle begin() requires Lives {
    lifetime_handle h;
    h.hold(new lifetime_counts);
    return h;
  }
  /// The watcher of a life.
  explicit lifetime_handle(lifetime_handle<true> const& watched) noexcept requires(!Lives) { hold(watched.counts_); }
  lifetime_handle(lifetime_handle const& o) noexcept { hold(o.counts_); }
  lifetime_handle(lifetime_handle&& o) noexcept : counts_(std::exchange(o.counts_, nullptr)) {}
  lifetime_handle& operator=(lifetime_handle o) noexcept {
    std::swap(counts_, o.counts_);
    return *this;
  }
  ~lifetime_handle() {
    if (!counts_) return;
    if (Lives) __atomic_sub_fetch(&counts_->lives, 1, __ATOMIC_RELEASE);
    if (__atomic_sub_fetch(&counts_->handles, 1, __ATOMIC_ACQ_REL) == 0) delete counts_;
  }

  /// Whether there is a life that has not ended.
  bool lasts() const noexcept { return counts_ && __atomic_load_n(&counts_->lives, __ATOMIC_ACQUIRE) > 0; }

private:
  template <bool>
  friend class lifetime_handle;
  void hold(lifetime_counts* c) noexcept {
    if (!c) return;
    __atomic_add_fetch(&c->handles, 1, __ATOMIC_RELAXED);
    if (Lives) __atomic_add_fetch(&c->lives, 1, __ATOMIC_RELAXED);
    counts_ = c;
  }
  lifetime_counts* counts_ = nullptr;
};

using lifetime = lifetime_handle<true>;
using lifetime_watch = lifetime_handle<false>;

} // namespace sp::detail
