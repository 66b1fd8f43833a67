// The mailboxes of a group of thread ranks: blocks of rendezvous for each ordered pair of ranks, made when the pair first exchanges.
// A thousand ranks that talk to their neighbours keep a thousand mailboxes, not a million; a message that stays open for long holds
// up nobody behind it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <sp/collective/threads/rendezvous.hpp>

namespace sp::detail {

/// What one rank sends to one other: a block of messages after the other. Sender and receiver open the same messages in the same
/// order, each by itself. A block is used again when both have opened its last message, ended all of them and gone on to the next: it
/// is then the one after that, so two ranks that keep step lock nothing.
template <class Event>
class mailbox {
public:
  static constexpr std::uint64_t slots = 8; ///< messages of a block

  /// Counts for one side what it is through with: the messages of a block, and the block itself.
  struct alignas(64) block {
    std::array<rendezvous<Event>, slots> at{};
    alignas(64) std::uint64_t ended_by_sender = 0;
    alignas(64) std::uint64_t ended_by_receiver = 0;
    alignas(64) std::atomic<int> ended_sides{0};
    std::atomic<block*> next{nullptr}; ///< becomes other than null once until the block is used again
  };
  /// Where a message is.
  struct place {
    block* in = nullptr;
    rendezvous<Event>* slot = nullptr;
    std::uint64_t ticket = 0;
  };

  /// Two blocks, between which ranks that keep step alternate: they allocate at their first exchange and never again.
  mailbox() {
    for (int i = 0; i < 2; ++i) all_.push_back(std::make_unique<block>());
    all_[0]->next.store(all_[1].get(), std::memory_order_relaxed);
    first_ = all_[0].get();
    free_.reserve(2); // see following()
  }

  /// Before open(), and only this and the constructor allocate: makes sure that the next message of this side has a place.
  void make_room(bool sender) {
    side& s = sender ? sender_ : receiver_;
    if (s.opened < s.blocks * slots) return;
    block* const before = std::exchange(s.at, following(s.at));
    ++s.blocks;
    if (before) end(*before, sender);
  }
  place open(bool sender) noexcept {
    side& s = sender ? sender_ : receiver_;
    std::uint64_t const number = s.opened++;
    return {s.at, &s.at->at[number % slots], number + 1};
  }
  /// This side neither looks at a message of the block again, nor at the memory that it named.
  void end(block& b, bool sender) noexcept {
    std::uint64_t& ended = sender ? b.ended_by_sender : b.ended_by_receiver;
    if (++ended < slots + 1) return;
    ended = 0;
    if (b.ended_sides.fetch_add(1, std::memory_order_acq_rel) == 0) return;
    b.ended_sides.store(0, std::memory_order_relaxed);
    block* const after = b.next.load(std::memory_order_relaxed); // both sides are there or further on
    b.next.store(nullptr, std::memory_order_relaxed);
    if (linked(*after, b)) return;
    std::lock_guard const lock(mutex_);
    free_.push_back(&b);
  }

private:
  /// What one side alone looks at.
  struct alignas(64) side {
    block* at = nullptr;
    std::uint64_t opened = 0, blocks = 0; ///< messages and blocks so far
  };

  /// Makes `next` the block after b, if b has none. What is linked to a block that is free itself comes into use with it.
  static bool linked(block& b, block& next) noexcept {
    block* none = nullptr;
    return b.next.compare_exchange_strong(none, &next, std::memory_order_release, std::memory_order_relaxed);
  }
  block* following(block* b) {
    if (!b) return first_;
    if (block* const next = b->next.load(std::memory_order_acquire)) return next;
    std::lock_guard const lock(mutex_);
    if (free_.empty()) {
      free_.reserve(all_.size() + 1); // so that end() never has to
      all_.push_back(std::make_unique<block>());
      free_.push_back(all_.back().get());
    }
    if (linked(*b, *free_.back())) free_.pop_back(); // else the other side was quicker, or a block has come back meanwhile
    return b->next.load(std::memory_order_acquire);
  }

  side sender_, receiver_;
  std::mutex mutex_; ///< of the lists of blocks
  std::vector<std::unique_ptr<block>> all_;
  std::vector<block*> free_;
  block* first_ = nullptr; ///< looked at by a side that has opened nothing yet: until then it is in use
};

template <class Event>
class mailboxes {
public:
  using box = mailbox<Event>;

  explicit mailboxes(int ranks) : ranks_(std::size_t(ranks)), pairs_(std::make_unique<pair[]>(ranks_ * ranks_)) {}
  mailboxes(mailboxes const&) = delete;
  ~mailboxes() {
    for (std::size_t i = 0; i < ranks_ * ranks_; ++i) delete pairs_[i].load(std::memory_order_relaxed);
  }

  /// Of the pair; sender and receiver may ask at the same time.
  box& operator()(int from, int to) {
    pair& p = pairs_[std::size_t(from) * ranks_ + std::size_t(to)];
    box* there = p.load(std::memory_order_acquire);
    return there ? *there : make(p);
  }

private:
  using pair = std::atomic<box*>;

  static box& make(pair& p) {
    auto made = std::make_unique<box>();
    box* there = nullptr; // the peer may have been quicker
    return p.compare_exchange_strong(there, made.get(), std::memory_order_acq_rel) ? *made.release() : *there;
  }

  std::size_t ranks_;
  std::unique_ptr<pair[]> pairs_; ///< (from, to)
};

} // namespace sp::detail
