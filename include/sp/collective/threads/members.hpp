// Who is in a group of thread ranks, what each of them keeps there, and how its failures end the family.
// Words and codes are those of all transports; what a peer reads while this rank works is atomic.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sp/collective/family/deadline.hpp>
#include <sp/collective/family/members.hpp>
#include <sp/collective/family/operation_id.hpp>
#include <sp/collective/threads/family.hpp>
#include <sp/collective/threads/history.hpp>
#include <sp/collective/threads/mailboxes.hpp>
#include <sp/core/queue.hpp>

namespace sp::detail {

template <class Queue>
class thread_group;

/// Queue: where the ranks' work runs, a handle of each rank's own.
template <class Queue>
class thread_members : public group_members {
public:
  using event = decltype(std::declval<Queue const&>().record());

  thread_members(std::shared_ptr<thread_family> family, std::vector<int> world_ranks)
      : group_members(std::move(world_ranks), family->new_group()), family_(std::move(family)),
        states_(std::make_unique<rank_state[]>(std::size_t(size()))) {
    auto const ranks = std::size_t(size());
    for (int r = 0; r < size(); ++r) {
      rank_state& s = at(r);
      s.recorder = family_->recorder(world(r)).get();
      s.flight = s.recorder->join(number(), r, this->world_ranks());
      s.marks = peer_marks(ranks);
      make_room(s, std::min<std::size_t>(2 * ranks, 32)); // exchanges with more parcels make more
    }
  }

  thread_family& family() const noexcept { return *family_; }

  /// Before anything else that `rank` does here: where its work runs.
  void join(int rank, Queue queue) { at(rank).queue.emplace(std::move(queue)); }
  Queue const& queue(int rank) const { return *at(rank).queue; }

  /// Ends the family in the name of `rank`.
  void abort(int rank, error_info const& why) { family_->fail(abort_of(rank, why)); }

protected:
  /// Whether there is work that is not done when the call that gave it returns: then ranks hand each other events.
  static constexpr bool queued = !Queue::finished_on_return;

  struct message {
    mailbox<event>* box = nullptr;
    typename mailbox<event>::place at{};
    std::span<piece const> pieces{};
    int peer = 0;
    bool outgoing = false;
    index_t bytes = 0;
  };
  struct open_exchange {
    bool open = false;
    std::uint64_t number = 0;
    char const* primitive = "";
    flight_recorder::ticket flight = 0;
    std::uint64_t operation = 0;         ///< its number among all operations of the group
    std::size_t left = 0;                ///< messages that have not moved: the first `left`, incoming before outgoing
    std::vector<message> messages;       ///< room for them, which never shrinks
    [[no_unique_address]] event ready{}; ///< behind the work before the exchange
    std::vector<event> moved; ///< copies that wait() orders before later work; for queues that are not finished on return
  };
  /// What a rank keeps here. Plain members are its own or ordered by the barrier; peers read the atomic ones at any time.
  struct alignas(64) rank_state {
    std::atomic<bool> busy{false};
    std::atomic<std::uint64_t> entered{0};  ///< exchanges whose messages are posted
    std::atomic<std::uint64_t> barriers{0}; ///< barriers entered
    std::atomic<std::uint64_t> joined{0};   ///< publications entered
    std::array<std::atomic<std::uint64_t>, publications>
        released{}; ///< number + 1 of the publications released, by number % publications
    std::array<std::span<piece const>, publications> published{};
    std::optional<Queue> queue;             ///< the rank's own
    std::array<event, publications> left{}; ///< behind its last use of a publication, by number % publications
    std::array<event, 2> came{};            ///< behind its work before a barrier, by number % 2
    std::array<open_exchange, outstanding> exchanges{};
    peer_marks marks;             ///< of check_peers
    operation_id in_barrier_of{}; ///< the operation whose barrier it has entered last
    operation_history history{};  ///< what it has begun, for peers that wait for it
    int color = 0, key = 0;
    flight_recorder* recorder = nullptr;
    flight_group flight{};
    flight_recorder::ticket barrier_flight = 0; ///< of the operation that the barrier is part of
    std::uint64_t operation = 0;                ///< its number
    std::shared_ptr<thread_group<Queue>> new_group;
    bool threw_cause = false; ///< from then on it throws `aborted`
  };

  /// Marks a rank as inside an operation; two threads inside at once are a mistake of the caller.
  struct occupancy {
    rank_state& mine;
    occupancy(thread_members& g, int rank, char const* primitive) : mine(g.at(rank)) {
      if (mine.busy.exchange(true, std::memory_order_acquire))
        g.refuse(rank, primitive, "another thread of this rank is inside an operation on the same communicator",
                 "Use a communicator from one thread at a time, or split one per thread");
    }
    occupancy(occupancy const&) = delete;
    ~occupancy() { mine.busy.store(false, std::memory_order_release); }
  };
  /// The same at the begin of an operation, which a family that has failed refuses.
  struct entry : occupancy {
    entry(thread_members& g, int rank, char const* primitive) : occupancy(g, rank, primitive) {
      if (g.family_->failed()) g.throw_cause(rank, primitive, int(this->mine.entered.load(std::memory_order_relaxed)));
    }
  };

  static void make_room(rank_state& s, std::size_t messages) {
    for (open_exchange& e : s.exchanges) {
      if (e.messages.size() < messages) e.messages.resize(messages);
      if (queued) e.moved.reserve(e.messages.size() + 1); // and the own parcel
    }
  }

  flight_recorder& recorder(int rank) const { return *at(rank).recorder; }
  rank_state& at(int rank) const { return states_[std::size_t(rank)]; }

  /// Ends the family; this rank, and `peer` where they disagree, will throw `code` themselves.
  void fail_between(int rank, errc code, int peer, std::string problem, std::string remedy, char const* primitive, int step) {
    family_->fail(failure_between(rank, code, peer, std::move(problem), std::move(remedy), primitive, step));
  }

  void fail_mismatch(int rank, char const* primitive, message const& m) {
    int const from = m.outgoing ? rank : m.peer, to = m.outgoing ? m.peer : rank;
    auto const &f = m.at.slot->from, &t = m.at.slot->to;
    std::string problem = f.same_primitive(t) ? counts_text(from, f.bytes, to, t.bytes)
                                              : operations_text(from, f.primitive, to, t.primitive); // counts of two things
    if (f.exchange != t.exchange)
      problem += "; the send belongs to exchange " + std::to_string(f.exchange) + ", the receive to exchange " +
                 std::to_string(t.exchange);
    fail_between(rank, f.same_primitive(t) ? errc::short_message : errc::rank_mismatch, m.peer, std::move(problem),
                 same_operations_and_counts, primitive, int(m.outgoing ? f.exchange : t.exchange));
  }

  /// Ends the family if `peer` has begun something else in the place of this rank's operation `number`.
  bool fail_elsewhere(int rank, int peer, std::uint64_t number, int step) {
    auto const mine = at(rank).history.find(number), theirs = at(peer).history.find(number);
    if (!mine || !theirs || mine->matches(*theirs)) return false;
    fail_between(rank, errc::rank_mismatch, peer, operations_text(rank, mine->text(), peer, theirs->text()), same_operations,
                 mine->primitive, step);
    return true;
  }

  void fail_returned(int rank, int peer, char const* primitive, int step) {
    family_->fail(peer_has_returned(rank, peer, primitive, step));
  }

  /// How far everybody came; the flight records tell the rest.
  void fail_late(int rank, int peer, char const* primitive, int step) {
    std::string problem = no_answer_within(family_->deadline()) + "; exchanges and barriers entered by rank:";
    for (int r = 0; r < size(); ++r)
      problem += (r ? ", " : " ") + std::to_string(at(r).entered.load()) + "+" + std::to_string(at(r).barriers.load());
    fail_between(rank, errc::timeout, peer, std::move(problem), "Look for the rank that is behind, or raise the deadline",
                 primitive, step);
  }

  [[noreturn]] void throw_cause(int rank, char const* primitive, int step) const {
    group_members::throw_cause(family_->cause(), family_->ranks(), rank, at(rank).threw_cause, primitive, step);
  }

  std::shared_ptr<thread_family> family_;
  std::unique_ptr<rank_state[]> states_;
};

} // namespace sp::detail
