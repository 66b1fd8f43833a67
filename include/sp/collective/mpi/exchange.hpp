// The exchanges of one group of processes: each pair with bytes tells each other its counts and its primitive, then the bytes move.
// Both sides check everything before a byte of a large parcel is sent, so what arrives in the caller's memory is what was expected.
#pragma once

#include <sp/collective/mpi/members.hpp>

namespace sp::detail {

class mpi_exchanges : public mpi_crew {
public:
  static constexpr std::uint64_t outstanding = 8; ///< a token is waited for before the 8th exchange after it

  mpi_exchanges(std::shared_ptr<mpi_family> family, std::vector<int> members, int rank, int context)
      : mpi_crew(std::move(family), std::move(members), rank, context), held_(members_.size() * outstanding),
        latest_(members_.size()) {
    for (open_exchange& e : exchanges_) e.place.assign(members_.size(), -1);
  }

  /// Opens an exchange: tells the peers, moves what is ready, returns its number.
  std::uint64_t exchange(traffic const& t) {
    entry guard(*this, t.primitive);
    std::uint64_t const number = entered_;
    open_exchange& e = at(number);
    if (e.open)
      refuse(t.primitive, "the token of the exchange " + std::to_string(outstanding) + " calls ago has not been waited for",
             "Wait for a token before the " + std::to_string(outstanding) + "th exchange after it");
    check_peers(t);
    e.flight = recorder().begin(place_, operation_kind::exchange, t.primitive);
    copy_own(t, e.flight);
    e.open = true;
    e.primitive = t.primitive;
    e.number = number;
    auto const [out, in] = list_talks(e, t);
    recorder().posted(e.flight, out, in);
    ++entered_;
    for (std::size_t i = 0; i < e.used; ++i) call(e, e.talks[i]);
    for (int r = 0; r < size() && !family_->failed(); ++r) meet_held(e, r);
    look_for_passed(e);
    family_->pump();
    return number;
  }

  /// Returns when all parcels of exchange `number` have moved.
  void wait(std::uint64_t number) {
    open_exchange& e = at(number);
    occupancy guard(*this, e.primitive);
    require_mpi(e.primitive);
    if (!e.open || e.number != number) raise(e.primitive, int(number)); // a wait for it failed before: the bytes never came
    forget_answers();
    auto arrived = [&] { return advance(e); };
    bool done = arrived();
    if (!done) {
      blocked(e);
      done = family_->wait(
          arrived, [&] { blocked(e), inspect(e); }, [&] { ask(); }, [&] { too_late(e); });
    }
    if (done && e.large) { // a peer that failed has told us before it took its memory back
      family_->pump();
      done = !family_->failed();
    }
    close(e, done);
    if (!done) raise(e.primitive, int(number));
  }

  /// A token died unwaited: the family ends, and on return no peer writes into the memory of that exchange.
  void drop(std::uint64_t number) noexcept {
    if (!mpi_is_running()) return;
    open_exchange& e = at(number);
    if (!e.open || e.number != number) return;
    family_->undisturbed([&] {
      drop_failure(e.primitive, int(number), "a token was destroyed without wait()");
      close(e, false);
    });
  }

  void take_back(time until) noexcept override {
    for (open_exchange& e : exchanges_)
      for (std::size_t i = 0; i < e.used && e.open; ++i) e.talks[i].in.cancel(until);
  }

protected:
  void hear_call(int peer, mpi_note const& n, std::byte const* data, std::size_t bytes) {
    latest_[std::size_t(peer)] = n.number + 1;
    seen_[std::size_t(peer)].exchanges = std::int64_t(n.number + 1);
    std::size_t const follows = n.gives > 0 && n.gives <= family_->options().largest_note ? std::size_t(n.gives) : 0;
    if (bytes != follows)
      return fail_counts(peer, index_t(bytes), rank_, index_t(follows), n.primitive, int(n.number)); // the transport lost bytes
    if (n.number < entered_) {
      open_exchange& e = at(n.number);
      int const place = e.open && e.number == n.number ? e.place[std::size_t(peer)] : -1;
      if (place < 0) return stray(peer, n);
      return answer(e, e.talks[std::size_t(place)], n, data);
    }
    held_call& h = held(peer, n.number);
    h.note = n;
    h.full = true;
    h.data.assign(data, data + bytes);
    for (open_exchange const& e : exchanges_) // what the peer has passed it will not enter again
      if (e.open) look_for_passed(e);
  }

private:
  /// One peer with bytes in an exchange.
  struct talk {
    int peer = 0;
    std::span<piece const> out_pieces{}, in_pieces{};
    index_t gives = 0, wants = 0;
    bool heard = false, sent = false, received = false; ///< the peer's call has come and agrees; bytes that have moved
    mpi_payload out{}, in{};
  };
  struct open_exchange {
    bool open = false, large = false;
    char const* primitive = "";
    flight_recorder::ticket flight = 0;
    std::uint64_t number = 0;
    std::size_t used = 0; ///< talks in use; the others keep their memory
    std::vector<talk> talks;
    std::vector<int> place; ///< in talks, by rank, or -1
  };
  /// A call that came before this rank opened the exchange.
  struct held_call {
    bool full = false;
    mpi_note note;
    std::vector<std::byte> data;
  };

  open_exchange& at(std::uint64_t number) { return exchanges_[number % outstanding]; }
  held_call& held(int peer, std::uint64_t number) { return held_[std::size_t(peer) * outstanding + number % outstanding]; }
  bool is_small(index_t bytes) const { return bytes <= family_->options().largest_note; }

  /// Local arguments: peers exist, and each occurs once per direction.
  void check_peers(traffic const& t) {
    for (std::span<parcel const> list : {t.sends, t.receives}) {
      marks_.assign(members_.size(), false);
      for (parcel const& p : list) {
        if (p.peer < 0 || p.peer >= size())
          refuse(t.primitive, "a parcel names peer " + std::to_string(p.peer), "Peers are ranks of this group");
        if (marks_[std::size_t(p.peer)])
          refuse(t.primitive, "two parcels in one direction name peer " + std::to_string(p.peer),
                 "Put all pieces for a peer into one parcel");
        marks_[std::size_t(p.peer)] = true;
      }
    }
  }
  void copy_own(traffic const& t, flight_recorder::ticket flight) {
    std::span<piece const> out, in;
    for (parcel const& p : t.sends)
      if (p.peer == rank_) out = p.pieces;
    for (parcel const& p : t.receives)
      if (p.peer == rank_) in = p.pieces;
    if (out.empty() && in.empty()) return;
    if (index_t const sent = total_bytes(out), expected = total_bytes(in); sent != expected) {
      fail_pair(errc::short_message, rank_, counts(rank_, sent, rank_, expected),
                "Both parcels to oneself must hold the same bytes", t.primitive, int(entered_));
      recorder().failed(flight);
      raise(t.primitive, int(entered_));
    }
    copy(in, out);
  }
  /// Fills the table; returns the bytes that leave and arrive.
  std::pair<index_t, index_t> list_talks(open_exchange& e, traffic const& t) {
    index_t out = 0, in = 0;
    e.used = 0;
    e.large = false;
    std::fill(e.place.begin(), e.place.end(), -1);
    auto with = [&](int peer) -> talk& {
      int& place = e.place[std::size_t(peer)];
      if (place < 0) {
        place = int(e.used++);
        if (e.talks.size() < e.used) e.talks.emplace_back();
        talk& fresh = e.talks[std::size_t(place)];
        fresh.peer = peer;
        fresh.gives = fresh.wants = 0;
        fresh.heard = false;
        fresh.sent = fresh.received = true;
      }
      return e.talks[std::size_t(place)];
    };
    for (parcel const& p : t.receives)
      if (index_t const bytes = total_bytes(p.pieces); bytes > 0 && p.peer != rank_) {
        talk& k = with(p.peer);
        in += k.wants = bytes;
        k.in_pieces = p.pieces;
        k.received = false;
      }
    for (parcel const& p : t.sends)
      if (index_t const bytes = total_bytes(p.pieces); bytes > 0 && p.peer != rank_) {
        talk& k = with(p.peer);
        out += k.gives = bytes;
        k.out_pieces = p.pieces;
        k.sent = is_small(bytes); // in the call itself
      }
    return {out, in};
  }

  /// Tells the peer what this rank gives and wants; a large receive is posted first.
  void call(open_exchange& e, talk& k) {
    mpi_note n;
    n.kind = mpi_note::call;
    n.context = context();
    n.number = e.number;
    n.gives = k.gives;
    n.wants = k.wants;
    n.name(e.primitive);
    e.large = e.large || !is_small(k.gives) || !is_small(k.wants);
    if (!is_small(k.wants)) {
      n.tag = family_->link().next_data_tag();
      k.in.receive(family_->link(), world(k.peer), n, k.in_pieces, k.wants, family_->options().largest_message);
    }
    std::size_t const follows = is_small(k.gives) ? std::size_t(k.gives) : 0;
    family_->link().send(world(k.peer), n, follows, [&](std::byte* to) {
      piece const packed = as_piece(view<std::byte, 1>(to, {index_t(follows)}));
      if (follows > 0) copy({&packed, 1}, k.out_pieces);
    });
  }

  /// The peer's call for this exchange: if both agree the bytes may move.
  void answer(open_exchange& e, talk& k, mpi_note const& n, std::byte const* data) {
    int const step = int(e.number);
    if (n.gives != k.wants) return fail_counts(k.peer, n.gives, rank_, k.wants, e.primitive, step);
    if (n.wants != k.gives) return fail_counts(rank_, k.gives, k.peer, n.wants, e.primitive, step);
    mpi_note mine;
    mine.name(e.primitive);
    if (!mine.same_call(n)) return fail_names(k.peer, e.primitive, n.primitive, e.primitive, step);
    k.heard = true;
    if (k.wants > 0 && is_small(k.wants)) {
      piece const packed = as_piece(view<std::byte, 1>(const_cast<std::byte*>(data), {k.wants}));
      copy(k.in_pieces, {&packed, 1});
      k.received = true;
    }
    if (!is_small(k.gives))
      k.out.send(family_->link(), world(k.peer), n, k.out_pieces, k.gives, family_->options().largest_message);
  }
  /// A call for an exchange in which this rank has nothing for that peer.
  void stray(int peer, mpi_note const& n) {
    if (n.gives > 0) return fail_counts(peer, n.gives, rank_, 0, n.primitive, int(n.number));
    fail_counts(rank_, 0, peer, n.wants, n.primitive, int(n.number));
  }
  void meet_held(open_exchange& e, int peer) {
    held_call& h = held(peer, e.number);
    int const place = e.place[std::size_t(peer)];
    if (h.full && h.note.number == e.number) {
      h.full = false;
      if (place < 0) return stray(peer, h.note);
      return answer(e, e.talks[std::size_t(place)], h.note, h.data.data());
    }
  }

  void look_for_passed(open_exchange const& e) {
    for (std::size_t i = 0; i < e.used && !family_->failed(); ++i) {
      talk const& k = e.talks[i];
      sight const& s = seen_[std::size_t(k.peer)];
      if (k.heard || std::max(std::int64_t(latest_[std::size_t(k.peer)]), s.exchanges) <= std::int64_t(e.number)) continue;
      if (held(k.peer, e.number).full && held(k.peer, e.number).note.number == e.number) continue; // about to be answered
      if (k.wants > 0)
        fail_counts(k.peer, 0, rank_, k.wants, e.primitive, int(e.number));
      else
        fail_counts(rank_, k.gives, k.peer, 0, e.primitive, int(e.number));
    }
  }

  /// Peers that went past this exchange without a call for it, or that have returned, will never come.
  void inspect(open_exchange const& e) {
    look_for_passed(e);
    for (std::size_t i = 0; i < e.used && !family_->failed(); ++i)
      if (!e.talks[i].heard && family_->has_left(world(e.talks[i].peer)))
        returned_early(e.talks[i].peer, e.primitive, int(e.number));
  }

  /// Moves on; true when everything has moved.
  bool advance(open_exchange& e) {
    bool all = true;
    for (std::size_t i = 0; i < e.used; ++i) {
      talk& k = e.talks[i];
      index_t moved = 0;
      if (!k.sent && !k.out.idle()) k.sent = k.out.done(family_->link(), moved);
      if (!k.received && k.heard && !k.in.idle() && k.in.done(family_->link(), moved)) {
        if (moved != k.wants) fail_counts(k.peer, moved, rank_, k.wants, e.primitive, int(e.number));
        k.received = moved == k.wants;
      }
      all = all && k.heard && k.sent && k.received;
    }
    return all;
  }

  void blocked(open_exchange const& e) {
    for (std::size_t i = 0; i < e.used; ++i)
      if (talk const& k = e.talks[i]; !(k.heard && k.sent && k.received)) return recorder().waiting(e.flight, world(k.peer));
  }
  void too_late(open_exchange const& e) {
    int first = -1;
    std::string missing;
    for (std::size_t i = 0; i < e.used; ++i) {
      talk const& k = e.talks[i];
      if (k.heard && k.sent && k.received) continue;
      missing += (missing.empty() ? "rank " : ", rank ") + std::to_string(k.peer);
      if (k.heard) missing += " (it came, its bytes did not)";
      if (first < 0) first = k.peer;
    }
    late(first, missing, e.primitive, int(e.number));
  }

  /// Nothing of this exchange is under way afterwards.
  void close(open_exchange& e, bool done) noexcept {
    time const end = mpi_family::end_of_reads();
    for (std::size_t i = 0; i < e.used; ++i) {
      talk& k = e.talks[i];
      if (!k.in.idle()) k.in.cancel(end);
      if (k.out.idle()) continue;
      family_->drain(world(k.peer), end, [&] { return k.out.sent(); });
      k.out.abandon();
    }
    e.used = 0;
    e.open = false;
    done ? recorder().done(e.flight) : recorder().failed(e.flight);
  }

  std::array<open_exchange, outstanding> exchanges_{};
  std::vector<held_call> held_;       ///< (rank, number % outstanding)
  std::vector<std::uint64_t> latest_; ///< number + 1 of the latest call, by rank
  std::vector<bool> marks_;
};

} // namespace sp::detail
