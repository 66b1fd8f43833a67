// The exchanges of one group of processes: each pair with bytes tells each other its counts and its primitive, then the bytes move.
// Both sides check everything before a byte of a large parcel is sent, so what arrives in the caller's memory is what was expected.
#pragma once

#include <sp/collective/mpi/members.hpp>

namespace sp::detail {

class mpi_exchanges : public mpi_members {
public:
  mpi_exchanges(std::shared_ptr<mpi_family> family, std::vector<int> world_ranks, int rank, int context)
      : mpi_members(std::move(family), std::move(world_ranks), rank, context), early_(std::size_t(size()) * outstanding),
        latest_(std::size_t(size())), marks_(std::size_t(size())) {
    for (open_exchange& e : exchanges_) e.place.assign(std::size_t(size()), -1);
  }

  /// Opens an exchange: tells the peers, moves what is ready, returns its number.
  std::uint64_t exchange(traffic const& t) {
    entry guard(*this, t.primitive);
    std::uint64_t const number = entered_;
    open_exchange& e = unused_exchange(exchanges_, number, rank_, t.primitive);
    check_peers(rank_, t, marks_);
    family_->link().types().begin_exchange();
    e.flight = recorder().begin(flight_, operation_kind::exchange, t.primitive);
    copy_own(t, e.flight);
    e.used = 0;
    e.open = true;
    e.large = false;
    e.primitive = t.primitive;
    e.number = number;
    unless_completed unfinished{*this, e};
    auto const [out, in] = list_transfers(e, t);
    recorder().posted(e.flight, out, in);
    ++entered_;
    for (std::size_t i = 0; i < e.used; ++i) announce(e, e.transfers[i]);
    for (int r = 0; r < size() && !family_->failed(); ++r) take_early(e, r);
    look_for_passed(e);
    family_->make_progress();
    unfinished.completed = true;
    return number;
  }

  /// Returns when all parcels of exchange `number` have moved.
  void wait(std::uint64_t number) {
    open_exchange& e = at(number);
    occupancy guard(*this, e.primitive);
    require_mpi(e.primitive);
    if (!e.open || e.number != number) throw_cause(e.primitive, int(number)); // a wait for it failed before: the bytes never came
    unless_completed unfinished{*this, e};
    forget_replies();
    auto arrived = [&] { return advance(e); };
    bool done = arrived();
    if (!done) {
      blocked(e);
      progress_queries queries(family_->options().deadline);
      done = family_->wait(
          arrived, [&] { blocked(e), inspect(e); },
          [&](auto left) { queries.everybody_now(left) ? query_progress() : query_open(e); }, [&] { too_late(e); });
    }
    if (done && e.large) { // a peer that failed has said so before it took its memory back
      family_->make_progress();
      done = !family_->failed();
    }
    unfinished.completed = true;
    auto const held = close(e, done);
    if (!done) throw_cause(e.primitive, int(number), held);
  }

  /// A token died unwaited: the family ends, and on return the memory of that exchange is the caller's again, as after a wait that
  /// failed.
  void drop(std::uint64_t number) noexcept {
    if (!mpi_is_running()) return;
    open_exchange& e = at(number);
    if (!e.open || e.number != number) return;
    family_->exclusively([&] {
      family_->fail_in_destructor("token dropped", [&] { return dropped_token(rank_, e.primitive, int(number)); });
      auto const held = close(e, false);
      if (!held.empty()) family_->note_held_by_drop(held);
    });
  }

  void advance_exchanges() override {
    if (open_large_ == 0 || family_->failed()) return;
    for (open_exchange& e : exchanges_)
      if (e.open && e.large) advance(e);
  }
  void cancel_receives() noexcept override {
    for (open_exchange& e : exchanges_)
      for (std::size_t i = 0; i < e.used && e.open; ++i) static_cast<void>(cancel_receive(e, e.transfers[i]));
  }

protected:
  void receive_cancellation(int peer, mpi_control const& n) {
    open_exchange& e = at(n.number);
    if (e.open && e.number == n.number && e.place[std::size_t(peer)] >= 0)
      e.transfers[std::size_t(e.place[std::size_t(peer)])].cancelled_by_peer = true;
  }
  /// A peer has told how many exchanges and barriers it has entered, the last of them `theirs`. Ranks that call the same operations
  /// in the same order are never each ahead of the other.
  void compare_order(int peer, std::uint64_t exchanges, std::uint64_t barriers, char const* theirs) {
    if (!(exchanges < entered_ && barriers > barriers_) && !(exchanges > entered_ && barriers < barriers_)) return;
    open_exchange const& e = at(exchanges);
    auto exchange = [](char const* primitive) { return operation_id::text(operation_id::exchange, primitive, 0); };
    bool const behind = exchanges < entered_;
    std::string const mine = !behind ? current_ : e.number == exchanges ? exchange(e.primitive) : "an exchange";
    fail_operations(peer, mine, behind ? theirs : exchange(theirs), behind && e.number == exchanges ? e.primitive : current_,
                    int(exchanges));
  }
  void receive_progress(int peer, mpi_control const& n) {
    receive_reply(peer, n);
    peer_progress const& p = progress_[std::size_t(peer)];
    if (p.inside && !p.absent) compare_order(peer, std::uint64_t(p.exchanges), std::uint64_t(p.barriers), p.primitive);
  }
  void receive_announcement(int peer, mpi_control const& n, std::byte const* data, std::size_t bytes) {
    compare_order(peer, n.number + 1, std::uint64_t(n.values[0]), n.primitive);
    latest_[std::size_t(peer)] = n.number + 1;
    progress_[std::size_t(peer)].exchanges = std::int64_t(n.number + 1);
    std::size_t const follows = n.gives > 0 && n.gives <= family_->options().eager_limit ? std::size_t(n.gives) : 0;
    if (bytes != follows)
      return fail_counts(peer, index_t(bytes), rank_, index_t(follows), n.primitive, int(n.number)); // the transport lost bytes
    if (n.number < entered_) {
      open_exchange& e = at(n.number);
      int const place = e.open && e.number == n.number ? e.place[std::size_t(peer)] : -1;
      if (place < 0) return fail_unexpected(peer, n);
      return accept(e, e.transfers[std::size_t(place)], n, data);
    }
    early_announcement& h = early(peer, n.number);
    h.head = n;
    h.full = true;
    h.data.assign(data, data + bytes);
    for (open_exchange const& e : exchanges_) // what the peer has passed it will not enter again
      if (e.open) look_for_passed(e);
  }

private:
  /// One peer with bytes in an exchange.
  struct transfer {
    int peer = 0;
    std::span<piece const> out_pieces{}, in_pieces{};
    index_t gives = 0, wants = 0;
    bool agreed = false, sent = false, received = false; ///< the peer's announcement has come and agrees; bytes that have moved
    bool cancelled_by_peer = false;                      ///< the peer has failed and will not receive what has not begun
    mpi_payload out{}, in{};
  };
  struct open_exchange {
    bool open = false, large = false;
    char const* primitive = "";
    flight_recorder::ticket flight = 0;
    std::uint64_t number = 0;
    std::size_t used = 0; ///< transfers in use; the others keep their memory
    std::vector<transfer> transfers;
    std::vector<int> place; ///< in transfers, by rank, or -1
  };
  /// An announcement that came before this rank opened the exchange.
  struct early_announcement {
    bool full = false;
    mpi_control head;
    std::vector<std::byte> data;
  };

  /// Unless an operation comes to its end it ends the family, and the memory of the exchange is the caller's again.
  struct unless_completed {
    mpi_exchanges& group;
    open_exchange& e;
    bool completed = false;
    ~unless_completed() {
      if (completed) return;
      auto why = [&] { return group.interrupted_operation(group.rank_, e.primitive, int(e.number)); };
      group.family_->fail_in_destructor("exception", why);
      auto const held = group.close(e, false);
      if (!held.empty()) group.family_->note_held_by_drop(held);
    }
  };
  open_exchange& at(std::uint64_t number) { return exchange_of(exchanges_, number); }
  /// The announcement of that exchange, or room for it: a peer has at most `outstanding` open that this rank has not entered.
  early_announcement& early(int peer, std::uint64_t number) {
    early_announcement* const all = &early_[std::size_t(peer) * outstanding];
    std::size_t room = number % outstanding;
    for (std::size_t i = 0; i < outstanding; ++i) {
      if (all[i].full && all[i].head.number == number) return all[i];
      if (all[room].full && !all[i].full) room = i;
    }
    return all[room];
  }
  bool is_small(index_t bytes) const { return bytes <= family_->options().eager_limit; }

  void copy_own(traffic const& t, flight_recorder::ticket flight) {
    detail::copy_own(rank_, t, [&](std::string problem, char const* remedy) {
      fail_between(errc::short_message, rank_, std::move(problem), remedy, t.primitive, int(entered_));
      recorder().failed(flight);
      throw_cause(t.primitive, int(entered_));
    });
  }
  /// Fills the table; returns the bytes that leave and arrive.
  std::pair<index_t, index_t> list_transfers(open_exchange& e, traffic const& t) {
    index_t out = 0, in = 0;
    std::fill(e.place.begin(), e.place.end(), -1);
    auto with = [&](int peer) -> transfer& {
      int& place = e.place[std::size_t(peer)];
      if (place < 0) {
        if (e.transfers.size() == e.used) e.transfers.emplace_back();
        place = int(e.used++);
        transfer& fresh = e.transfers[std::size_t(place)];
        fresh.peer = peer;
        fresh.gives = fresh.wants = 0;
        fresh.agreed = fresh.cancelled_by_peer = false;
        fresh.sent = fresh.received = true;
      }
      return e.transfers[std::size_t(place)];
    };
    for (parcel const& p : t.receives)
      if (index_t const bytes = total_bytes(p.pieces); bytes > 0 && p.peer != rank_) {
        transfer& k = with(p.peer);
        in += k.wants = bytes;
        k.in_pieces = p.pieces;
        k.received = false;
      }
    for (parcel const& p : t.sends)
      if (index_t const bytes = total_bytes(p.pieces); bytes > 0 && p.peer != rank_) {
        transfer& k = with(p.peer);
        out += k.gives = bytes;
        k.out_pieces = p.pieces;
        k.sent = is_small(bytes); // in the announcement itself
      }
    return {out, in};
  }

  /// Tells the peer what this rank gives and wants; a large receive is posted first.
  void announce(open_exchange& e, transfer& k) {
    mpi_control n;
    n.kind = mpi_control::announcement;
    n.context = context();
    n.number = e.number;
    n.gives = k.gives;
    n.wants = k.wants;
    n.values[0] = std::int64_t(barriers_);
    n.name(e.primitive);
    if (!e.large && (!is_small(k.gives) || !is_small(k.wants))) {
      e.large = true;
      ++open_large_;
    }
    if (!is_small(k.wants)) {
      n.tag = family_->link().next_data_tag();
      k.in.receive(family_->link(), world(k.peer), n, k.in_pieces, k.wants, family_->options());
    }
    std::size_t const follows = is_small(k.gives) ? std::size_t(k.gives) : 0;
    family_->link().send(world(k.peer), n, follows, [&](std::byte* to) {
      piece const packed = as_piece(view<std::byte, 1>(to, {index_t(follows)}));
      if (follows > 0) copy({&packed, 1}, k.out_pieces);
    });
  }

  static bool is_for(open_exchange const& e, mpi_control const& n) {
    mpi_control mine;
    mine.name(e.primitive);
    return mine.same_primitive(n);
  }
  /// The peer's announcement for this exchange: if both agree the bytes may move.
  void accept(open_exchange& e, transfer& k, mpi_control const& n, std::byte const* data) {
    int const step = int(e.number);
    if (!is_for(e, n)) return fail_operations(k.peer, e.primitive, n.primitive, e.primitive, step);
    if (n.gives != k.wants) return fail_counts(k.peer, n.gives, rank_, k.wants, e.primitive, step);
    if (n.wants != k.gives) return fail_counts(rank_, k.gives, k.peer, n.wants, e.primitive, step);
    k.agreed = true;
    if (k.wants > 0 && is_small(k.wants)) {
      piece const packed = as_piece(view<std::byte, 1>(const_cast<std::byte*>(data), {k.wants}));
      copy(k.in_pieces, {&packed, 1});
      k.received = true;
    }
    if (!is_small(k.gives)) k.out.send(family_->link(), world(k.peer), n, k.out_pieces, k.gives, family_->options());
  }
  /// An announcement for an exchange in which this rank has nothing for that peer.
  void fail_unexpected(int peer, mpi_control const& n) {
    open_exchange const& e = at(n.number);
    if (e.number == n.number && !is_for(e, n)) return fail_operations(peer, e.primitive, n.primitive, e.primitive, int(n.number));
    if (n.gives > 0) return fail_counts(peer, n.gives, rank_, 0, n.primitive, int(n.number));
    fail_counts(rank_, 0, peer, n.wants, n.primitive, int(n.number));
  }
  void take_early(open_exchange& e, int peer) {
    early_announcement& h = early(peer, e.number);
    int const place = e.place[std::size_t(peer)];
    if (h.full && h.head.number == e.number) {
      h.full = false;
      if (place < 0) return fail_unexpected(peer, h.head);
      return accept(e, e.transfers[std::size_t(place)], h.head, h.data.data());
    }
  }

  void look_for_passed(open_exchange const& e) {
    for (std::size_t i = 0; i < e.used && !family_->failed(); ++i) {
      transfer const& k = e.transfers[i];
      peer_progress const& s = progress_[std::size_t(k.peer)];
      if (k.agreed || std::max(std::int64_t(latest_[std::size_t(k.peer)]), s.exchanges) <= std::int64_t(e.number)) continue;
      if (early(k.peer, e.number).full && early(k.peer, e.number).head.number == e.number) continue; // about to be accepted
      if (k.wants > 0)
        fail_counts(k.peer, 0, rank_, k.wants, e.primitive, int(e.number));
      else
        fail_counts(rank_, k.gives, k.peer, 0, e.primitive, int(e.number));
    }
  }

  /// Peers that went past this exchange without an announcement of it, or that have returned, will never come.
  void inspect(open_exchange const& e) {
    look_for_passed(e);
    for (std::size_t i = 0; i < e.used && !family_->failed(); ++i)
      if (!e.transfers[i].agreed && family_->has_returned(world(e.transfers[i].peer)))
        fail_returned(e.transfers[i].peer, e.primitive, int(e.number));
  }

  /// Moves what is ready; true when everything has moved.
  bool advance(open_exchange& e) {
    bool all = true;
    for (std::size_t i = 0; i < e.used; ++i) {
      transfer& k = e.transfers[i];
      index_t moved = 0;
      if (!k.sent && !k.out.idle()) k.sent = k.out.test(family_->link(), moved);
      if (!k.received && k.agreed && !k.in.idle() && k.in.test(family_->link(), moved)) {
        if (moved != k.wants) fail_counts(k.peer, moved, rank_, k.wants, e.primitive, int(e.number));
        k.received = moved == k.wants;
      }
      all = all && k.agreed && k.sent && k.received;
    }
    return all;
  }

  void query_open(open_exchange const& e) {
    for (std::size_t i = 0; i < e.used; ++i)
      if (transfer const& k = e.transfers[i]; !(k.agreed && k.sent && k.received)) query_progress_of(k.peer);
  }
  void blocked(open_exchange const& e) {
    for (std::size_t i = 0; i < e.used; ++i)
      if (transfer const& k = e.transfers[i]; !(k.agreed && k.sent && k.received))
        return recorder().waiting(e.flight, world(k.peer));
  }
  void too_late(open_exchange const& e) {
    int first = -1;
    std::string missing;
    for (std::size_t i = 0; i < e.used; ++i) {
      transfer const& k = e.transfers[i];
      if (k.agreed && k.sent && k.received) continue;
      missing += (missing.empty() ? "rank " : ", rank ") + std::to_string(k.peer);
      if (k.agreed) missing += " (it came, its bytes did not)";
      if (first < 0) first = k.peer;
    }
    fail_late(first, missing, e.primitive, int(e.number));
  }

  /// After a failure: cancels the receive, and tells the sender when it is complete. True when it is.
  bool cancel_receive(open_exchange const& e, transfer& k) noexcept {
    if (k.in.idle()) return true;
    if (!k.in.cancel()) return false;
    mpi_control n;
    n.kind = mpi_control::cancelled;
    n.context = context();
    n.number = e.number;
    best_effort([&] { family_->link().send(world(k.peer), n); });
    return true;
  }
  /// After a failure: cancels both directions. True when MPI holds nothing of the caller's for this peer any more.
  bool cancel(open_exchange const& e, transfer& k) noexcept {
    if (!k.out.idle() && !k.out.cancel() && k.cancelled_by_peer) k.out.abandon(); // never begun: nobody will read it
    return cancel_receive(e, k) && k.out.idle();
  }
  /// Nothing of this exchange is under way afterwards, except with the world ranks of the result: direct messages that are not
  /// complete at the end of the deadline.
  std::vector<int> close(open_exchange& e, bool done) noexcept {
    std::vector<int> held;
    if (!done) {
      family_->wait_for_requests([&] {
        bool all = true;
        for (std::size_t i = 0; i < e.used; ++i) all = cancel(e, e.transfers[i]) && all;
        return all;
      });
      for (std::size_t i = 0; i < e.used; ++i) {
        transfer& k = e.transfers[i];
        if (cancel(e, k)) continue;
        best_effort([&] { held.push_back(world(k.peer)); });
        k.in.abandon();
        k.out.abandon();
      }
    }
    e.used = 0;
    e.open = false;
    open_large_ -= e.large;
    done ? recorder().done(e.flight) : recorder().failed(e.flight);
    return held;
  }

  std::array<open_exchange, outstanding> exchanges_{};
  std::vector<early_announcement> early_; ///< (rank, any of `outstanding`)
  int open_large_ = 0;                    ///< open exchanges with large parcels
  std::vector<std::uint64_t> latest_;     ///< number + 1 of the latest announcement, by rank
  peer_marks marks_;
};

} // namespace sp::detail
