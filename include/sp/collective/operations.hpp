// The collectives that move bytes, one free function each: a communicator's own ability where it has one, its grouped exchange otherwise.
// With a queue they are operations of that queue and return tokens; without one they work on host memory. Sums: reductions.hpp.
#pragma once

#include <sp/collective/done_token.hpp>
#include <sp/collective/parcels.hpp>
#include <sp/core/context.hpp>
#include <sp/core/elementwise.hpp>

namespace sp {

namespace detail {
/// To a communicator that does not read them, lists of rows would be other rows.
template <communicator C>
void require_readable([[maybe_unused]] C const& c, [[maybe_unused]] traffic const& t) {
  if constexpr (!has_row_lists<C>)
    for (auto const& list : {t.sends, t.receives})
      for (parcel const& p : list)
        for (piece const& x : p.pieces)
          if (!x.rows.empty())
            fail({errc::bad_state, "a piece lists its rows, and this communicator does not read such lists",
                  "Give it the pieces of for_each_plain(), or let it say row_lists = true once it reads them", t.primitive,
                  c.rank(), c.size()});
}

/// Before an operation that is not given `q` itself: what is to be sent is in memory when this returns, or the communicator works on that
/// same queue, and so starts behind the work that writes it. bad_state if it works on another one.
template <communicator C, queue Q>
void finish_before_sending([[maybe_unused]] C const& c, [[maybe_unused]] Q const& q, [[maybe_unused]] char const* primitive) {
  static_assert(
      std::is_same_v<typename C::memory_type, typename Q::memory_type>,
      "sp::exchange: the communicator moves tensors of one memory and the queue works on those of another; their memory_type "
      "must be the same.");
  if constexpr (has_own_queue<C>) {
    bool same = false; // as one of another type
    if constexpr (requires { c.queue() == q; }) same = c.queue() == q;
    if (!same)
      fail({errc::bad_state, "the call's queue is not the one on which this communicator works, and would not wait for it",
            "Make the context with the communicator's queue(), or the communicator with the context's queue", primitive, c.rank(),
            c.size()});
  } else if constexpr (!Q::finished_on_return) {
    q.synchronize();
  }
}
} // namespace detail

/// One grouped exchange; see sp::traffic. Returns a token. bad_state for pieces with lists of rows where C does not read them.
template <communicator C>
[[nodiscard]] auto exchange(C const& c, traffic const& t) {
  detail::require_readable(c, t);
  return c.exchange(t);
}
/// The same as an operation of a queue: it starts after all work that `q` was given, and wait() orders it before all that `q` is given
/// afterwards. A model whose work is ordered by queues takes `q` as last argument, or says own_queue, and then refuses any queue but its own
/// (bad_state, nothing is sent); for any other one `q` is synchronized first.
template <communicator C, queue Q>
[[nodiscard]] auto exchange(C const& c, traffic const& t, Q const& q) {
  detail::require_readable(c, t);
  auto const range = detail::named_work(q, t.primitive, " post");
  if constexpr (has_exchange<C, Q>) {
    return c.exchange(t, q);
  } else {
    detail::finish_before_sending(c, q, t.primitive);
    return c.exchange(t);
  }
}

/// Parcels from everybody to everybody; the same contract as exchange, for transports that have a faster call for it.
template <communicator C>
[[nodiscard]] auto all_to_all_v(C const& c, traffic const& t) {
  detail::require_readable(c, t);
  if constexpr (has_all_to_all_v<C>)
    return c.all_to_all_v(t);
  else
    return c.exchange(t);
}
/// The same as an operation of a queue, see exchange().
template <communicator C, queue Q>
[[nodiscard]] auto all_to_all_v(C const& c, traffic const& t, Q const& q) {
  if constexpr (has_all_to_all_v<C, Q>) {
    detail::require_readable(c, t);
    auto const range = detail::named_work(q, t.primitive, " post");
    return c.all_to_all_v(t, q);
  } else if constexpr (has_all_to_all_v<C>) {
    detail::finish_before_sending(c, q, t.primitive);
    return sp::all_to_all_v(c, t);
  } else {
    return sp::exchange(c, t, q);
  }
}

namespace detail {

/// A token with the parcels that its exchange reads.
template <token Token>
class parcel_token {
public:
  parcel_token(owned<parcel, 1>&& parcels, Token&& inner) : parcels_(std::move(parcels)), inner_(std::move(inner)) {}
  void wait() { inner_.wait(); }

private:
  owned<parcel, 1> parcels_; // declared first: dies after the token
  Token inner_;
};

/// Bytes that use(context) takes from the scratch of a context of `q`, lists of the host apart where these are not in it.
template <queue Q, class Use>
index_t counted_scratch(Q const& q, Use&& use) {
  basic_byte_counter<typename Q::memory_type> counter;
  byte_counter lists;
  context<Q> ctx(q, counter, counter);
  if constexpr (!std::is_same_v<typename Q::memory_type, host_memory>) ctx.lists = &lists;
  use(ctx);
  return counter.bytes();
}

} // namespace detail

/// Everybody's `mine` to everybody: receives holds one parcel per rank. The own parcel may be empty: that part is in place.
/// Taken from `lists` until wait(): one parcel per rank. Every rank's receive parcel for rank r counts as many bytes as r's `mine`.
/// An operation of the queue, where one is given, see exchange().
template <communicator C, queue Q>
[[nodiscard]] auto all_gather_v(C const& c, char const* primitive, std::span<piece const> mine, std::span<parcel const> receives,
                                allocator& lists, Q const& q, message_form const& form = {}) {
  bool own_in_place = true;
  for (parcel const& p : receives)
    if (p.peer == c.rank() && total_bytes(p.pieces) > 0) own_in_place = false;
  constexpr bool in_one = has_all_gather_v<C> || has_all_gather_v<C, Q>;
  index_t const count = in_one ? 1 : c.size();
  owned<parcel, 1> sends(lists, {count}); // (ranks) or (1)
  traffic const t{primitive, {sends.tensor.data, std::size_t(count)}, receives, form};
  if constexpr (in_one) {
    sends.tensor(0) = {c.rank(), mine};
    detail::require_readable(c, t);
    auto const range = detail::named_work(q, primitive, " post");
    if constexpr (has_all_gather_v<C, Q>) {
      return detail::parcel_token(std::move(sends), c.all_gather_v(t, q));
    } else {
      detail::finish_before_sending(c, q, primitive);
      return detail::parcel_token(std::move(sends), c.all_gather_v(t));
    }
  } else {
    for (int r = 0; r < c.size(); ++r) sends.tensor(r) = {r, r == c.rank() && own_in_place ? std::span<piece const>() : mine};
    return detail::parcel_token(std::move(sends), sp::exchange(c, t, q));
  }
}
template <communicator C>
  requires(std::is_same_v<typename C::memory_type, host_memory>)
[[nodiscard]] auto all_gather_v(C const& c, char const* primitive, std::span<piece const> mine, std::span<parcel const> receives,
                                allocator& lists) {
  return sp::all_gather_v(c, primitive, mine, receives, lists, inline_queue{});
}

/// Bytes that all_gather_v takes from its allocator.
[[nodiscard]] inline index_t all_gather_scratch(int ranks) {
  byte_counter counter;
  owned<parcel, 1> sends(counter, {ranks});
  return counter.bytes();
}

/// The root's pieces to everybody's pieces, as an operation of a queue, see exchange(). The fallback takes log2(size) exchanges and no
/// scratch: in round k the first 2^k ranks, counted from the root, send to the next 2^k.
template <communicator C, queue Q>
[[nodiscard]] auto broadcast(C const& c, std::span<piece const> pieces, int root, Q const& q,
                             char const* primitive = "broadcast") {
  int const size = c.size();
  if (root < 0 || root >= size)
    fail({errc::bad_state, "rank " + std::to_string(root) + " is not in the group", "Name a rank of this group as root",
          primitive, c.rank(), size});
  if constexpr (has_broadcast<C, Q>) {
    return detail::token_of([&]() -> decltype(auto) { return c.broadcast(pieces, root, q); });
  } else if constexpr (has_broadcast<C>) {
    detail::finish_before_sending(c, q, primitive);
    return detail::token_of([&]() -> decltype(auto) { return c.broadcast(pieces, root); });
  } else {
    int const place = (c.rank() - root + size) % size;
    for (int have = 1; have < size; have *= 2) {
      bool const gives = place < have && place + have < size, takes = place >= have && place < 2 * have;
      parcel const p{(place + (gives ? have : -have) + root + size) % size, pieces};
      std::span<parcel const> const one(&p, 1), none;
      sp::exchange(c, traffic{primitive, gives ? one : none, takes ? one : none}, q).wait();
    }
    return detail::done_token();
  }
}
/// The same, blocking, over host memory.
template <communicator C>
void broadcast(C const& c, std::span<piece const> pieces, int root, char const* primitive = "broadcast") {
  sp::broadcast(c, pieces, root, inline_queue(), primitive).wait();
}

namespace detail {
/// Sends one byte to the rank 1, 2, 4, ... further on; `out` and `in` are bytes that nobody reads.
template <communicator C, queue Q>
void barrier_by_messages(C const& c, piece const& out, piece const& in, Q const& q) {
  for (int step = 1; step < c.size(); step *= 2) {
    parcel const to{(c.rank() + step) % c.size(), {&out, 1}}, from{(c.rank() + c.size() - step) % c.size(), {&in, 1}};
    sp::exchange(c, traffic{"barrier", {&to, 1}, {&from, 1}}, q).wait();
  }
}
} // namespace detail

/// Nobody's queue goes on before everybody has come and everybody's queue has done what it was given: an operation of the context's
/// queue, see exchange(). The fallback takes two bytes of context.scratch.
template <communicator C, class Queue>
[[nodiscard]] auto barrier(C const& c, context<Queue> const& ctx) {
  if constexpr (has_barrier<C, Queue>) {
    return detail::token_of([&]() -> decltype(auto) { return c.barrier(ctx.queue); });
  } else if constexpr (has_barrier<C>) {
    detail::finish_before_sending(c, ctx.queue, "barrier");
    return detail::token_of([&]() -> decltype(auto) { return c.barrier(); });
  } else {
    owned<char, 2, typename Queue::memory_type> bytes(*ctx.scratch, {2, 1});
    sp::fill(ctx.queue, bytes.tensor, 0);
    detail::barrier_by_messages(c, as_piece(bytes.tensor.rows(0, 1)), as_piece(bytes.tensor.rows(1, 1)), ctx.queue);
    return detail::done_token();
  }
}
/// The same, blocking, over host memory.
template <communicator C>
void barrier(C const& c) {
  if constexpr (has_barrier<C>) {
    detail::token_of([&]() -> decltype(auto) { return c.barrier(); }).wait();
  } else {
    static_assert(
        std::is_same_v<typename C::memory_type, host_memory>,
        "sp::barrier cannot send a byte of this memory without a queue: give a context of that memory, or a communicator "
        "with a member barrier()");
    char out = 0, in = 0;
    detail::barrier_by_messages(c, as_piece(view<char, 1>(&out, {1})), as_piece(view<char, 1>(&in, {1})), inline_queue());
  }
}

} // namespace sp
