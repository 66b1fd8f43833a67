// The mailboxes of a group of thread ranks: a row of rendezvous for each ordered pair of ranks, made when the pair first exchanges.
// A thousand ranks that talk to their neighbours keep a thousand rows, not a million; a pair keeps its row until the group ends.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include <sp/collective/threads/rendezvous.hpp>

namespace sp::detail {

/// What one rank sends to one other.
struct mailbox {
  std::array<rendezvous, rendezvous::slots> slots{};
  alignas(64) std::uint64_t sends = 0;    ///< messages opened by the sender, who alone looks at it
  alignas(64) std::uint64_t receives = 0; ///< the same of the receiver

  rendezvous& at(std::uint64_t ticket) { return slots[(ticket - 1) % rendezvous::slots]; }
};

class mailboxes {
public:
  explicit mailboxes(int ranks) : ranks_(std::size_t(ranks)), pairs_(std::make_unique<pair[]>(ranks_ * ranks_)) {}
  mailboxes(mailboxes const&) = delete;
  ~mailboxes() {
    for (std::size_t i = 0; i < ranks_ * ranks_; ++i) delete pairs_[i].load(std::memory_order_relaxed);
  }

  /// Of the pair; sender and receiver may ask at the same time.
  mailbox& operator()(int from, int to) {
    pair& p = pairs_[std::size_t(from) * ranks_ + std::size_t(to)];
    mailbox* there = p.load(std::memory_order_acquire);
    return there ? *there : make(p);
  }

private:
  using pair = std::atomic<mailbox*>;

  static mailbox& make(pair& p) {
    auto made = std::make_unique<mailbox>();
    mailbox* there = nullptr; // the peer may have been quicker
    return p.compare_exchange_strong(there, made.get(), std::memory_order_acq_rel) ? *made.release() : *there;
  }

  std::size_t ranks_;
  std::unique_ptr<pair[]> pairs_; ///< (from, to)
};

} // namespace sp::detail
