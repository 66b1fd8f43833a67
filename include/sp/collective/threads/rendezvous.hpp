// A rendezvous of one message between two threads: both sides lay out their pieces, one of them has them copied, both learn of it.
// Whoever comes second, or waits first, may copy; nothing is packed, nothing is allocated, and either side can cancel safely.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

#include <sp/collective/family/members.hpp>
#include <sp/core/piece.hpp>

namespace sp::detail {

/// One side's part of a message. Event: a point of a rank's queue.
template <class Event>
struct message_half {
  std::span<piece const> pieces;
  index_t bytes = 0;
  std::uint64_t exchange = 0; ///< number of the exchange it belongs to
  char const* primitive = "";
  [[no_unique_address]] Event ready{}; ///< behind the side's work before the exchange: from then on its pieces may be used

  bool same_primitive(message_half const& o) const {
    return primitive == o.primitive || std::string_view(primitive) == o.primitive;
  }
};

/// Holds one message of an ordered pair of ranks at a time, see mailbox. A message's ticket is its number + 1; each counter below
/// rises to the ticket when its event has happened, so nothing is ever reset.
template <class Event>
struct alignas(64) rendezvous {
  using half = message_half<Event>;
  static constexpr std::uint64_t cancelled = std::uint64_t{1} << 63; ///< set in `done` when the bytes did not move

  std::atomic<std::uint64_t> sent{0}, claimed{0}; // with `from` on the sender's cache line
  half from;
  alignas(64) std::atomic<std::uint64_t> wanted{0};
  std::atomic<std::uint64_t> done{0};
  half to;
  [[no_unique_address]] Event after_copy{}; ///< behind the copy; for who sees it complete

  // Both post with seq_cst and then look for the other: at least one of them sees both halves.
  [[nodiscard]] bool post_send(half h, std::uint64_t ticket) {
    from = std::move(h);
    sent.store(ticket, std::memory_order_seq_cst);
    return wanted.load(std::memory_order_seq_cst) == ticket;
  }
  [[nodiscard]] bool post_receive(half h, std::uint64_t ticket) {
    to = std::move(h);
    wanted.store(ticket, std::memory_order_seq_cst);
    return sent.load(std::memory_order_seq_cst) == ticket;
  }
  bool both_posted(std::uint64_t ticket) const noexcept {
    return sent.load(std::memory_order_seq_cst) == ticket && wanted.load(std::memory_order_seq_cst) == ticket;
  }
  /// The right to copy, or to cancel: given once.
  [[nodiscard]] bool claim(std::uint64_t ticket) noexcept {
    std::uint64_t before = claimed.load(std::memory_order_relaxed); // the ticket of an earlier message, or this one
    return before != ticket && claimed.compare_exchange_strong(before, ticket, std::memory_order_acq_rel);
  }
  void complete(std::uint64_t ticket, bool moved) noexcept {
    done.store(moved ? ticket : ticket | cancelled, std::memory_order_release);
  }
  bool is_complete(std::uint64_t ticket) const noexcept { return done.load(std::memory_order_acquire) == ticket; }

  bool agree() const noexcept { return from.bytes == to.bytes && from.exchange == to.exchange; }

  /// Returns when the peer neither touches our buffers nor ever will. Only for a family that has failed.
  void cancel(std::uint64_t ticket) noexcept {
    if (claim(ticket)) complete(ticket, false);
    while ((done.load(std::memory_order_acquire) & ~cancelled) != ticket) std::this_thread::yield(); // the peer is copying now
  }
};

} // namespace sp::detail
