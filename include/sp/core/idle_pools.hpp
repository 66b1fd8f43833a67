// Pools of batches that have ended, for the batches to come: a new batch in each step does not begin with cold memory.
// A pool has one owner at a time, and one whose blocks are still out waits for them. Process-wide, behind a lock held for moments; a
// child that forks while other threads make or end batches makes none before exec.
#pragma once

#include <sp/core/brief_lock.hpp>
#include <sp/core/memory.hpp>

namespace sp {

namespace detail {

/// The list, as static functions.
class idle_pools {
public:
  /// How many owners a block may see without being used, before it goes back to the system; and how many batches may end for each
  /// pool there is, before a pool that nobody took does.
  static constexpr std::size_t unused_owners_kept = 8;
  /// Idle pools that are kept at most.
  static constexpr std::size_t most_idle = 256;

  /// A pool that this thread gave back, else that of another thread, else a new one.
  static pool* take() {
    pool* taken = nullptr;
    {
      brief_lock const held(list.locked);
      pool** at = &list.first;
      for (pool** p = at; *p; p = &(*p)->next_)
        if ((*p)->last_thread_ == &this_thread) {
          at = p;
          break;
        }
      taken = *at;
      if (taken) *at = taken->next_;
    }
    if (taken) {
      taken->peak_ = 0;
      return taken;
    }
    taken = new pool;
    brief_lock const held(list.locked);
    ++list.pools;
    return taken;
  }

  /// The owner of `p` has no more use for it. Blocks that are out stay valid, and the last one to come back brings the pool here.
  static void give_back(pool* p) noexcept {
    if (p->out_ > 0)
      p->when_empty_ = &put;
    else
      put(p);
  }

  /// Frees all pools of the list; returns the bytes of their blocks.
  static std::size_t release() noexcept {
    pool* p = nullptr;
    {
      brief_lock const held(list.locked);
      p = cut(list.first);
    }
    return destroy(p);
  }

private:
  /// A pool that nobody took while so many batches ended goes, and what is beyond the most: the list is sorted, the newest first.
  static void put(pool* p) noexcept {
    p->when_empty_ = nullptr;
    ++p->owners_;
    for (std::size_t i = p->free_.size(); i-- > 0;)
      if (p->owners_ - p->free_[i].used > unused_owners_kept) {
        ::operator delete(p->free_[i].data, std::align_val_t(allocator::alignment));
        p->free_[i] = p->free_.back();
        p->free_.pop_back();
      }
    p->last_thread_ = &this_thread;
    pool* old = nullptr;
    {
      brief_lock const held(list.locked);
      p->given_back_ = ++list.ended;
      p->next_ = list.first;
      list.first = p;
      pool** at = &list.first;
      for (std::size_t idle = 0; *at && idle < most_idle; ++idle, at = &(*at)->next_)
        if (list.ended - (*at)->given_back_ > unused_owners_kept * list.pools) break;
      old = cut(*at);
    }
    destroy(old);
  }

  /// The pools from here to the end of the list, which are no longer in it. The lock is held.
  static pool* cut(pool*& from) noexcept {
    for (pool* p = from; p; p = p->next_) --list.pools;
    return std::exchange(from, nullptr);
  }
  static std::size_t destroy(pool* p) noexcept {
    std::size_t bytes = 0;
    while (p) {
      for (pool::block const& b : p->free_) bytes += b.bytes;
      delete std::exchange(p, p->next_);
    }
    return bytes;
  }

  struct shared {
    pool* first;
    std::size_t pools; ///< of batches that live and of the list
    std::size_t ended; ///< how often a pool came back
    bool locked;
  };
  static inline constinit shared list{}; ///< never destroyed: batches may end after main()
  static inline constinit thread_local char this_thread = 0;
};

} // namespace detail

/// Gives the memory of batches that have ended back to the system, and returns how many bytes that was. Batches that live keep
/// theirs. Any thread may call it at any time: after a phase that needed more memory than what follows, or before a program
/// measures what it has lost.
inline std::size_t release_idle_memory() noexcept { return detail::idle_pools::release(); }

} // namespace sp
