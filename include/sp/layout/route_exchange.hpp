// Exchanges along routes: several tensors in one call, at a cost that counts peers and operands, however many runs the rows are in.
// Rows are stored where they land or summed there; what the exchange needs comes from the call's context and dies with its token.
#pragma once

#include <sp/collective/operations.hpp>
#include <sp/layout/arrivals.hpp>
#include <sp/layout/message_room.hpp>

namespace sp {

namespace detail {

/// Pieces of one operand in one direction: one for each peer, or one for each range of rows where lists of rows are not read.
template <class C>
index_t pieces_of(row_lists const& l) {
  return has_row_lists<C> ? index_t(l.peers()) : l.ranges();
}
template <class C>
void add_piece(parcel_builder& b, piece const& p) {
  if (p.bytes() == 0) return;
  if constexpr (has_row_lists<C>)
    b.add(p);
  else
    for_each_plain(p, [&](piece const& plain) { b.add(plain); });
}

/// Operands with what they keep until their rows have landed: taken in this order, given back in reverse.
template <class... Operands>
struct routed_list {
  template <class M>
  explicit routed_list(basic_allocator<M>&) {}
  void list(int, auto&&) {}
  template <class Queue>
  void finish(Queue const&) const {}
};
template <class First, class... More>
struct routed_list<First, More...> {
  First first;
  arrivals<First> arriving;
  routed_list<More...> more;

  template <class M>
  routed_list(basic_allocator<M>& scratch, First const& o, More const&... rest)
      : first(o), arriving(scratch, o), more(scratch, rest...) {}
  /// Calls add(sent, lands) with the two pieces of each operand that move with `peer`; peers in order.
  template <class Add>
  void list(int peer, Add&& add) {
    route const& r = *first.along;
    using side = head_cut::side;
    piece const from = as_piece(first.from), to = as_piece(first.to);
    auto const out = heads_with(peer, r.size(), first.cut, side::from, from.extents[1]);
    auto const in = heads_with(peer, r.size(), first.cut, side::to, to.extents[1]);
    add(piece_of(from, out, r.sends().rows(peer), r.sends().of(peer)),
        first.lands == landing::store ? piece_of(to, in, r.lands().rows(peer), r.lands().of(peer)) : arriving.place(first, peer));
    more.list(peer, add);
  }
  template <class Queue>
  void finish(Queue const& q) const {
    arriving.finish(q, first);
    more.finish(q);
  }
};

/// Everything that an exchange along routes takes from its context until its token has been waited for: lists from `lists`, rows
/// that are to be added up and room for messages from `scratch`.
template <class C, class... Operands>
struct route_memory {
  parcel_builder sends, receives;
  routed_list<Operands...> operands;
  [[no_unique_address]] message_room<C, typename C::memory_type> room;

  template <class Queue>
  route_memory(context<Queue> const& ctx, int peers, Operands const&... o)
      : sends(*ctx.lists, peers, (pieces_of<C>(o.along->sends()) + ...)),
        receives(*ctx.lists, peers, (pieces_of<C>(o.along->lands()) + ...)), operands(*ctx.scratch, o...),
        room(*ctx.scratch, o...) {}

  /// Lists what goes to everybody and what comes.
  void list(int peers) {
    for (int p = 0; p < peers; ++p) {
      sends.open(p);
      receives.open(p);
      operands.list(p, [&](piece const& sent, piece const& lands) {
        add_piece<C>(sends, sent);
        add_piece<C>(receives, lands);
      });
    }
  }
};

/// One exchange along routes on its way.
template <token Token, class Memory, class Queue>
class route_token {
public:
  template <class Start>
  route_token(Queue queue, Memory&& memory, int peers, Start&& start)
      : queue_(std::move(queue)), memory_(std::move(memory)),
        flight_((memory_.list(peers), start(memory_.sends.parcels(), memory_.receives.parcels(), memory_.room.form()))) {}

  /// Behind it all rows are where they land, and added up.
  void wait() {
    flight_.wait();
    memory_.operands.finish(queue_);
  }

private:
  [[no_unique_address]] Queue queue_;
  Memory memory_; // dies after the token of the exchange that reads it
  Token flight_;
};

/// Refuses what would move other bytes than the route says.
template <class C, class From, class To, int R, bool Sums, class M>
void check_operand(C const& c, char const* primitive, routed<From, To, R, Sums, M> const& o) {
  static_assert(std::is_same_v<M, typename C::memory_type>,
                "sp::exchange: the tensors and the communicator are of different memories.");
  auto refuse = [&](errc code, std::string problem, char const* remedy) {
    fail({code, std::move(problem), remedy, primitive, c.rank(), c.size()});
  };
  route const& r = *o.along;
  if (group_place const here = group_place::in(c); r.place() != here)
    refuse(errc::bad_state, "the route was made for " + r.place().text() + ", this is " + here.text() + " of the group",
           "Make the route over the ranks of the same group");
  if constexpr (!std::is_same_v<From, To>)
    if (o.lands == landing::store)
      refuse(errc::invalid_shape, "rows of one element type are to be stored as another", "Store equal types; sums may differ");
  if (o.from.extent(0) != r.from_rows() || o.to.extent(0) != r.to_rows())
    refuse(errc::invalid_shape,
           "rows given " + std::to_string(o.from.extent(0)) + " and " + std::to_string(o.to.extent(0)) + ", the route has " +
               std::to_string(r.from_rows()) + " and " + std::to_string(r.to_rows()),
           "Pass (rows of the route, ...) tensors");
  if (o.table) o.table->require_route(r, primitive);
  auto want = o.from.extents;
  want[0] = o.to.extent(0);
  bool good = R > 1 || o.cut.of == head_cut::side::none;
  if constexpr (R > 1)
    if (o.cut.of != head_cut::side::none) {
      bool const spreads = o.cut.of == head_cut::side::from;
      index_t const all = o.cut.count(), mine = o.cut.of_peer(c.rank(), c.size()).count;
      good = o.from.extent(1) == (spreads ? all : mine);
      want[1] = spreads ? mine : all;
    }
  if (!good || o.to.extents != want)
    refuse(errc::invalid_shape, "tensors " + shape(o.from) + " and " + shape(o.to) + " do not fit behind the rows",
           "Give equal trailing extents, except for heads that are cut");
}

/// The exchange that `start` begins, given what is sent and what is received.
template <class C, class Queue, class Start, class... Operands>
auto start_along_routes(C const& c, char const* primitive, context<Queue> const& ctx, Start&& start, Operands const&... o) {
  (check_operand(c, primitive, o), ...);
  using memory = route_memory<C, Operands...>;
  using inner = decltype(start(std::span<parcel const>(), std::span<parcel const>(), message_form()));
  return route_token<inner, memory, Queue>(ctx.queue, memory(ctx, c.size(), o...), c.size(), start);
}

} // namespace detail

/// Moves rows of all operands along their routes in one exchange named `primitive`, as an operation of the context's queue: it starts
/// after all work that the queue was given, and after wait() of the token it returns the rows have landed and sums are complete for all
/// work that the queue is given. Costs O(ranks x operands), and O(ranges of rows) where C does not read lists of rows.
/// bad_state for a route of another group or a table of another route, invalid_shape for extents that do not fit: nothing has been sent then.
template <communicator C, class Queue, class... Operands>
  requires(sizeof...(Operands) > 0)
[[nodiscard]] auto exchange(C const& c, char const* primitive, context<Queue> const& ctx, Operands const&... operands) {
  auto start = [&](std::span<parcel const> sends, std::span<parcel const> receives, message_form const& form) {
    return sp::all_to_all_v(c, traffic{primitive, sends, receives, form}, ctx.queue);
  };
  return detail::start_along_routes(c, primitive, ctx, start, operands...);
}
/// The same on the caller's thread, with host memory from `scratch`.
template <communicator C, class... Operands>
  requires(sizeof...(Operands) > 0)
[[nodiscard]] auto exchange(C const& c, char const* primitive, allocator& scratch, Operands const&... operands) {
  return sp::exchange(c, primitive, context(scratch, scratch), operands...);
}

/// The same along routes on which every peer is sent the same rows (route::to_everybody): one all_gather_v.
template <communicator C, class Queue, class... Operands>
  requires(sizeof...(Operands) > 0)
[[nodiscard]] auto exchange_with_everybody(C const& c, char const* primitive, context<Queue> const& ctx,
                                           Operands const&... operands) {
  auto start = [&](std::span<parcel const> sends, std::span<parcel const> receives, message_form const& form) {
    if (((operands.cut.of == head_cut::side::from || !operands.along->sends().alike()) || ...))
      fail({errc::bad_state, "peers are to be sent different rows or heads", "Call exchange() for this route", primitive,
            c.rank(), c.size()});
    return sp::all_gather_v(c, primitive, sends[0].pieces, receives, *ctx.lists, ctx.queue, form);
  };
  return detail::start_along_routes(c, primitive, ctx, start, operands...);
}
template <communicator C, class... Operands>
  requires(sizeof...(Operands) > 0)
[[nodiscard]] auto exchange_with_everybody(C const& c, char const* primitive, allocator& scratch, Operands const&... operands) {
  return sp::exchange_with_everybody(c, primitive, context(scratch, scratch), operands...);
}

/// Bytes that exchange() takes from the scratch of a context of `queue` until its token has been waited for; the tensors may be null.
template <communicator C, queue Queue, class... Operands>
[[nodiscard]] index_t exchange_scratch(C const& c, Queue const& queue, Operands const&... operands) {
  basic_byte_counter<typename Queue::memory_type> counter;
  byte_counter lists; // over host memory they are in scratch too
  context<Queue> ctx(queue, counter, counter);
  if constexpr (!std::is_same_v<typename Queue::memory_type, host_memory>) ctx.lists = &lists;
  detail::route_memory<C, Operands...> memory(ctx, c.size(), operands...);
  return counter.bytes();
}
template <communicator C, class... Operands>
[[nodiscard]] index_t exchange_scratch(C const& c, Operands const&... operands) {
  return sp::exchange_scratch(c, inline_queue{}, operands...);
}

} // namespace sp
