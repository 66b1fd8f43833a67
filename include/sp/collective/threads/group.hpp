// One group of thread ranks: exchanges over mailboxes, a barrier, publications and splits, all with the family's deadline.
// Every byte count is checked; a failure in any group of the family ends every operation of every group.
#pragma once

#include <algorithm>

#include <sp/collective/threads/members.hpp>
#include <sp/collective/threads/on_exception.hpp>

namespace sp::detail {

template <class Queue>
class thread_group : public thread_members<Queue> {
  using members = thread_members<Queue>;
  using members::at, members::check_peers, members::dropped_publication, members::dropped_token, members::exchange_of;
  using members::fail_between, members::fail_elsewhere, members::fail_late, members::fail_mismatch, members::fail_returned;
  using members::family_, members::interrupted_operation, members::make_room, members::outstanding, members::publications,
      members::queued, members::recorder;
  using members::refuse_publication, members::throw_cause, members::unused_exchange;
  using typename members::entry, typename members::event, typename members::message, typename members::occupancy;
  using typename members::open_exchange, typename members::rank_state;

public:
  using members::queue, members::size, members::world;

  thread_group(std::shared_ptr<thread_family> family, std::vector<int> world_ranks)
      : members(std::move(family), std::move(world_ranks)), boxes_(size()) {}

  /// Posts all messages, moves what is ready, returns the number of the exchange.
  std::uint64_t exchange(int rank, traffic const& t) {
    rank_state& me = at(rank);
    entry guard(*this, rank, t.primitive);
    std::uint64_t const number = me.entered.load(std::memory_order_relaxed);
    open_exchange& e = unused_exchange(me.exchanges, number, rank, t.primitive);
    check_peers(rank, t, me.marks);
    e.left = 0;
    index_t const bytes_in = address(rank, t.receives, false, e), bytes_out = address(rank, t.sends, true, e);
    e.flight = begin(rank, operation_kind::exchange, {operation_id::exchange, t.primitive}, e.operation);
    try_or([&] { e.ready = queue(rank).record(), copy_own(rank, t, e); },
           [&] { interrupted(rank, t.primitive, int(number)), recorder(rank).failed(e.flight); });
    e.open = true;
    e.number = number;
    e.primitive = t.primitive;
    // Before a peer can see a message: whoever takes the records finds the bytes there.
    recorder(rank).posted(e.flight, bytes_out, bytes_in);
    for (std::size_t i = 0; i < e.left; ++i) post(number, e, e.messages[i]);
    me.entered.store(number + 1, std::memory_order_release);
    auto end = [&] {
      interrupted(rank, t.primitive, int(number));
      close(rank, e, false);
    };
    try_or([&] { advance(rank, e, eager_limit); }, end);
    return number;
  }

  /// Returns when all messages of exchange `number` have moved, whoever copied them, or will before any later work of the rank's queue.
  void wait(int rank, std::uint64_t number) {
    open_exchange& e = exchange_of(at(rank).exchanges, number);
    occupancy guard(*this, rank, e.primitive);
    if (!e.open) throw_cause(rank, e.primitive, int(number)); // a wait for it failed before: the bytes never came
    auto arrived = [&] { return advance(rank, e, unbounded) == 0; };
    auto blocked = [&] { recorder(rank).waiting(e.flight, world(e.messages[0].peer)); };
    bool done = false;
    auto move_all = [&] {
      done = arrived();
      if (!done) {
        blocked();
        done = family_->wait(
            world(rank), arrived, [&] { blocked(), inspect(rank, number, e); },
            [&] { fail_late(rank, e.messages[0].peer, e.primitive, int(number)); });
      }
      if (done) order(rank, e);
    };
    try_or(move_all, [&] { interrupted(rank, e.primitive, int(number)), close(rank, e, false); });
    close(rank, e, done);
    if (!done) throw_cause(rank, e.primitive, int(number));
  }

  /// A token died unwaited: the family ends, and on return no peer touches the buffers of that exchange.
  void drop(int rank, std::uint64_t number) noexcept {
    open_exchange& e = exchange_of(at(rank).exchanges, number);
    family_->fail_in_destructor(world(rank), "token dropped", [&] { return dropped_token(rank, e.primitive, int(number)); });
    close(rank, e, false);
  }

  void barrier(int rank, char const* primitive) {
    entry guard(*this, rank, primitive);
    recorded(rank, operation_kind::barrier, {operation_id::barrier, primitive}, 0,
             [&](operation_id const& op) { barrier_of(rank, op); });
  }

  /// Shows `pieces` to the group and returns when everybody has; the result names the publication.
  std::uint64_t publish(int rank, char const* primitive, std::span<piece const> pieces) {
    rank_state& me = at(rank);
    entry guard(*this, rank, primitive);
    std::uint64_t const number = me.joined.load(std::memory_order_relaxed);
    if (number >= publications && me.released[number % publications].load(std::memory_order_relaxed) != number - publications + 1)
      refuse_publication(rank, primitive);
    me.published[number % publications] = pieces;
    auto const end = family_->end_of_wait();
    me.joined.store(number + 1, std::memory_order_seq_cst); // first joined, then a look at failed(): see drop_publication
    try_or(
        [&] {
          recorded(rank, operation_kind::publish, {operation_id::publish, primitive, std::int64_t(number)}, total_bytes(pieces),
                   [&](operation_id const& op) { barrier_of(rank, op); });
        },
        [&] { drop_publication(rank, primitive, number, end); });
    return number;
  }
  std::span<piece const> published(int rank, std::uint64_t number) { return at(rank).published[number % publications]; }

  void release(int rank, char const* primitive, std::uint64_t number) {
    auto const end = family_->end_of_wait();
    try_or(
        [&] {
          leave(rank, primitive, number);
          entry guard(*this, rank, primitive);
          recorded(rank, operation_kind::release, {operation_id::release, primitive, std::int64_t(number)}, 0,
                   [&](operation_id const& op) { barrier_of(rank, op); });
        },
        [&] { drop_publication(rank, primitive, number, end); });
  }
  /// For a publication that dies unreleased: ends the family and waits for peers that may be using it, but all together not longer
  /// than the first wait of this kind may, see end_of_grace. A peer that has not joined never will: it looks at failed() after it
  /// joins.
  void drop_publication(int rank, char const* primitive, std::uint64_t number, thread_family::time until) noexcept {
    family_->fail_in_destructor(world(rank), "buffers dropped", [&] { return dropped_publication(rank, primitive); });
    whatever_it_throws([&] { leave(rank, primitive, number); });
    auto const end = family_->end_of_grace(world(rank), until);
    for (int r = 0; r < size(); ++r) {
      if (r == rank) continue;
      auto inside = [&] { return at(r).joined.load(std::memory_order_seq_cst) > number && !has_left(r, number); };
      while (inside() && !family_->has_returned(world(r)) && std::chrono::steady_clock::now() < end)
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      if constexpr (queued)
        if (has_left(r, number)) whatever_it_throws([&] { queue(rank).wait(at(r).left[number % publications]); });
    }
  }

  /// Everybody's color and key become groups; returns this rank's group and its rank there.
  std::pair<std::shared_ptr<thread_group>, int> split(int rank, int color, int key) {
    rank_state& me = at(rank);
    entry guard(*this, rank, "split");
    me.color = color;
    me.key = key;
    std::pair<std::shared_ptr<thread_group>, int> mine;
    recorded(rank, operation_kind::split, {operation_id::split, "split"}, 0,
             [&](operation_id const& op) { mine = split_into(rank, color, op); });
    return mine;
  }
  /// With a reference count of one rank's own: tokens copy the pointer, and ranks must not fight over one counter.
  [[nodiscard]] static std::shared_ptr<thread_group> for_one_rank(std::shared_ptr<thread_group> const& group) {
    return {group.get(), [group](thread_group*) {}};
  }

private:
  bool has_left(int rank, std::uint64_t number) const {
    return at(rank).released[number % publications].load(std::memory_order_seq_cst) >= number + 1;
  }
  /// The rank does not use publication `number` again, but for what it has queued. If the queue throws, nobody knows when that is done:
  /// peers wait as for a rank that uses it.
  void leave(int rank, char const* primitive, std::uint64_t number) {
    if (has_left(rank, number)) return;
    if constexpr (queued)
      try_or([&] { at(rank).left[number % publications] = queue(rank).record(); },
             [&] { interrupted(rank, primitive, int(number)); });
    at(rank).released[number % publications].store(number + 1, std::memory_order_seq_cst);
  }

  static constexpr index_t eager_limit = 16384; ///< a sender that comes second copies up to this at once; more is left to both

  std::pair<std::shared_ptr<thread_group>, int> split_into(int rank, int color, operation_id const& op) {
    rank_state& me = at(rank);
    barrier_of(rank, op);
    std::vector<int> const order = ranks_of_color(
        size(), [&](int r) { return at(r).color; }, [&](int r) { return at(r).key; }, color);
    if (order.front() == rank) {
      std::vector<int> world_ranks;
      for (int r : order) world_ranks.push_back(world(r));
      me.new_group = std::make_shared<thread_group>(family_, std::move(world_ranks));
    }
    barrier_of(rank, op);
    std::shared_ptr<thread_group> const group = at(order.front()).new_group;
    barrier_of(rank, op);
    me.new_group.reset();
    int const place = int(std::find(order.begin(), order.end(), rank) - order.begin());
    group->join(place, queue(rank));
    return {for_one_rank(group), place};
  }

  void copy_own(int rank, traffic const& t, open_exchange& e) {
    auto const [out, in] = own_parcels_of_equal_bytes(rank, t, [&](std::string problem, char const* remedy) {
      int const number = int(at(rank).entered.load(std::memory_order_relaxed));
      fail_between(rank, errc::short_message, rank, std::move(problem), remedy, t.primitive, number);
      throw_cause(rank, t.primitive, number);
    });
    if (!in.empty()) keep(e, copied(rank, in, out, e.ready, e.ready));
  }

  /// Has the rank's lane copy `from` to `to` behind both events, and returns an event behind that.
  event copied(int rank, std::span<piece const> to, std::span<piece const> from, event const& a, event const& b) {
    auto const lane = queue(rank).lane();
    lane.wait(a);
    lane.wait(b);
    lane.copy(to, from);
    return lane.record();
  }
  /// Remembers a copy that the exchange's wait() orders before later work.
  static void keep([[maybe_unused]] open_exchange& e, [[maybe_unused]] event const& moved) {
    if constexpr (queued) e.moved.push_back(moved);
  }

  /// The next operation of the rank, for its flight record and for peers that wait; `number` becomes its number.
  flight_recorder::ticket begin(int rank, operation_kind kind, operation_id const& what, std::uint64_t& number) {
    rank_state& me = at(rank);
    number = me.flight.operations;
    me.history.begin(number, what);
    return recorder(rank).begin(me.flight, kind, what.primitive);
  }

  /// Adds the messages of one direction, which nobody sees yet: what cannot be allocated leaves nothing half done. Returns the bytes.
  index_t address(int rank, std::span<parcel const> list, bool outgoing, open_exchange& e) {
    if (e.left + list.size() > e.messages.size()) make_room(at(rank), e.left + list.size());
    index_t sum = 0;
    for (parcel const& p : list) {
      index_t const bytes = total_bytes(p.pieces);
      if (bytes == 0 || p.peer == rank) continue;
      mailbox<event>& box = outgoing ? boxes_(rank, p.peer) : boxes_(p.peer, rank);
      box.make_room(outgoing);
      e.messages[e.left++] = {&box, {}, p.pieces, p.peer, outgoing, bytes};
      sum += bytes;
    }
    return sum;
  }

  /// Shows a message to its peer.
  void post(std::uint64_t number, open_exchange const& e, message& m) {
    m.at = m.box->open(m.outgoing);
    message_half<event> const h{m.pieces, m.bytes, number, e.primitive, e.ready};
    bool const both = m.outgoing ? m.at.slot->post_send(h, m.at.ticket) : m.at.slot->post_receive(h, m.at.ticket);
    if (both && m.outgoing && m.bytes > eager_limit) family_->notify(world(m.peer)); // the receiver may sleep: let it copy
  }

  /// Moves what both sides have posted, outgoing messages only up to `outgoing_limit` bytes. Returns how many are still to move.
  std::size_t advance(int rank, open_exchange& e, index_t outgoing_limit) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < e.left; ++i) {
      message& m = e.messages[i];
      auto const [block, slot, ticket] = m.at;
      bool moved = slot->is_complete(ticket);
      if (!moved && (!m.outgoing || m.bytes <= outgoing_limit) && !family_->failed() && slot->both_posted(ticket) &&
          slot->claim(ticket))
        moved = move(rank, e.primitive, m);
      if (moved) {
        keep(e, slot->after_copy);
        m.box->end(*block, m.outgoing);
      } else if (kept++ != i)
        e.messages[kept - 1] = m;
    }
    e.left = kept;
    return kept;
  }

  bool move(int rank, char const* primitive, message const& m) {
    rendezvous<event>& s = *m.at.slot;
    bool const good = s.agree() && s.from.same_primitive(s.to);
    try_or(
        [&] {
          if (!good) return fail_mismatch(rank, primitive, m);
          s.after_copy = copied(rank, s.to.pieces, s.from.pieces, s.from.ready, s.to.ready);
        },
        [&] { s.complete(m.at.ticket, false); });
    s.complete(m.at.ticket, good);
    family_->notify(world(m.peer));
    return good;
  }

  /// Peers that do something else in place of this exchange, that went past it without opening our message, or that have returned,
  /// will never open it.
  void inspect(int rank, std::uint64_t number, open_exchange const& e) {
    for (std::size_t i = 0; i < e.left; ++i) {
      message const& m = e.messages[i];
      if (fail_elsewhere(rank, m.peer, e.operation, int(number))) return;
      bool const gone = family_->has_returned(world(m.peer));
      bool const past = at(m.peer).entered.load(std::memory_order_acquire) > number;
      std::atomic<std::uint64_t> const& answer = m.outgoing ? m.at.slot->wanted : m.at.slot->sent;
      if (answer.load(std::memory_order_acquire) == m.at.ticket) continue;
      if (past)
        return fail_between(rank, errc::short_message, m.peer,
                            m.outgoing ? counts_text(rank, m.bytes, m.peer, 0) : counts_text(m.peer, 0, rank, m.bytes),
                            "Counts of both sides must agree", e.primitive, int(number));
      if (gone) return fail_returned(rank, m.peer, e.primitive, int(number));
    }
  }

  /// Later work of the rank's queue starts behind what has moved.
  void order(int rank, open_exchange& e) {
    for (event const& moved : e.moved) queue(rank).wait(moved);
    e.moved.clear();
  }

  /// Takes back what has not moved: afterwards no peer touches the buffers of this exchange. Unless the queue throws, its later work starts
  /// behind what has moved, so that what gives the buffers back in the order of the queue may do it now.
  void close(int rank, open_exchange& e, bool done) noexcept {
    for (std::size_t i = 0; i < e.left; ++i) { // a family that ended
      auto const& place = e.messages[i].at;
      place.slot->cancel(place.ticket);
      if (place.slot->is_complete(place.ticket)) keep(e, place.slot->after_copy);
    }
    for (event const& moved : e.moved) whatever_it_throws([&] { queue(rank).wait(moved); }); // none, if they are in order
    e.moved.clear();
    e.left = 0;
    e.open = false;
    done ? recorder(rank).done(e.flight) : recorder(rank).failed(e.flight);
  }

  /// An exception leaves an operation of the rank. While the family lives it is none of our errors, and ends it: the others wait, or
  /// have gone on.
  void interrupted(int rank, char const* primitive, int step) noexcept {
    if (family_->failed()) return;
    family_->fail_in_destructor(world(rank), "exception", [&] { return interrupted_operation(rank, primitive, step); });
  }

  /// Runs `body`, which has a barrier, as one operation of the flight record.
  template <class Body>
  void recorded(int rank, operation_kind kind, operation_id const& what, index_t bytes, Body&& body) {
    flight_recorder& r = recorder(rank);
    flight_recorder::ticket const t = at(rank).barrier_flight = begin(rank, kind, what, at(rank).operation);
    r.posted(t, bytes, 0);
    auto end = [&] {
      r.failed(t);
      interrupted(rank, what.primitive, int(at(rank).barriers.load()) - 1);
    };
    try_or([&] { body(what); }, end);
    r.done(t);
  }

  /// Returns when every rank is in the barrier of the same operation. What queues are given from then on starts behind everything that
  /// they all had been given.
  void barrier_of(int rank, operation_id const& op) {
    if constexpr (!queued) {
      come_together(rank, op);
    } else { // a rank that is two barriers ahead would overwrite what others read: it cannot be
      std::size_t const turn = at(rank).barriers.load(std::memory_order_relaxed) % 2;
      at(rank).came[turn] = queue(rank).record();
      come_together(rank, op);
      for (int r = 0; r < size(); ++r)
        if (r != rank) queue(rank).wait(at(r).came[turn]);
    }
  }
  void come_together(int rank, operation_id const& op) {
    char const* const primitive = op.primitive;
    rank_state& me = at(rank);
    std::uint64_t const turn = me.barriers.load(std::memory_order_relaxed) + 1;
    if (family_->failed()) throw_cause(rank, primitive, int(turn - 1));
    me.in_barrier_of = op; // the last to arrive reads it: arrived_ orders the two
    me.barriers.store(turn, std::memory_order_release);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == turn * std::uint64_t(size())) {
      for (int r = 0; r < size(); ++r)
        if (!at(r).in_barrier_of.matches(op)) {
          fail_between(rank, errc::rank_mismatch, r, operations_text(rank, op.text(), r, at(r).in_barrier_of.text()),
                       same_operations, primitive, int(turn - 1));
          throw_cause(rank, primitive, int(turn - 1));
        }
      opened_.store(turn, std::memory_order_seq_cst);
      for (int r = 0; r < size(); ++r)
        if (r != rank) family_->notify(world(r));
      return;
    }
    auto missing = [&](auto&& wanted) { // first whether it has returned, then how far it had come
      for (int r = 0; r < size(); ++r)
        if (wanted(r) && at(r).barriers.load(std::memory_order_acquire) < turn) return r;
      return -1;
    };
    auto blocked = [&] {
      if (int const peer = missing([](int) { return true; }); peer >= 0) recorder(rank).waiting(me.barrier_flight, world(peer));
    };
    blocked();
    bool const done = family_->wait(
        world(rank), [&] { return opened_.load(std::memory_order_acquire) >= turn; },
        [&] {
          blocked();
          if (missing([&](int r) { return r != rank && fail_elsewhere(rank, r, me.operation, int(turn - 1)); }) >= 0) return;
          int const peer = missing([&](int r) { return family_->has_returned(world(r)); });
          if (peer >= 0) fail_returned(rank, peer, primitive, int(turn - 1));
        },
        [&] { fail_late(rank, missing([](int) { return true; }), primitive, int(turn - 1)); });
    if (!done) throw_cause(rank, primitive, int(turn - 1));
  }

  mailboxes<event> boxes_;
  alignas(64) std::atomic<std::uint64_t> arrived_{0};
  alignas(64) std::atomic<std::uint64_t> opened_{0};
};

} // namespace sp::detail
