// The collectives, one free function each: a communicator's own ability where it has one, its grouped exchange otherwise.
// Fallback sums run in rank order and give the same bits on every rank; small arrays come from the caller's allocator.
#pragma once

#include <sp/collective/parcels.hpp>
#include <sp/core/context.hpp>

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

/// What is to be sent is in memory when this returns, or the communicator itself starts behind the work that writes it.
template <communicator C, queue Q>
void finish_before_sending([[maybe_unused]] Q const& q) {
  static_assert(
      std::is_same_v<typename C::memory_type, typename Q::memory_type>,
      "sp::exchange: the communicator moves tensors of one memory and the queue works on those of another; their memory_type "
      "must be the same.");
  if constexpr (!Q::finished_on_return && !has_own_queue<C>) q.synchronize();
}
} // namespace detail

/// One grouped exchange; see sp::traffic. Returns a token. bad_state for pieces with lists of rows where C does not read them.
template <communicator C>
[[nodiscard]] auto exchange(C const& c, traffic const& t) {
  detail::require_readable(c, t);
  return c.exchange(t);
}
/// The same as an operation of a queue: it starts after all work that `q` was given, and wait() orders it before all that `q` is given
/// afterwards. A model whose work is ordered by queues takes `q` as last argument, or says own_queue; for any other one `q` is
/// synchronized first.
template <communicator C, queue Q>
[[nodiscard]] auto exchange(C const& c, traffic const& t, Q const& q) {
  detail::require_readable(c, t);
  if constexpr (requires { c.exchange(t, q); }) {
    return c.exchange(t, q);
  } else {
    detail::finish_before_sending<C>(q);
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
  if constexpr (requires { c.all_to_all_v(t, q); }) {
    detail::require_readable(c, t);
    return c.all_to_all_v(t, q);
  } else if constexpr (has_all_to_all_v<C>) {
    detail::finish_before_sending<C>(q);
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

/// Values up to this many are summed by everybody: one exchange instead of two.
inline constexpr index_t small_all_reduce = 256;

/// Number of values in one rank's part at most.
[[nodiscard]] constexpr index_t largest_cut(index_t n, int parts) { return ceil_div(n, parts); }

/// What reduce_scatter allocates for parts of n values.
template <class T>
struct reduce_scatter_memory {
  owned<T, 2> values; // (ranks, n): the parts of the other ranks; the own row is not used
  parcel_builder sends, receives;
  reduce_scatter_memory(allocator& from, index_t n, int ranks)
      : values(from, {ranks, n}), sends(from, ranks, ranks), receives(from, ranks, ranks) {}
};

/// result(i) = sum over r, in rank order, of row r of `values`, where row `rank` is `mine` instead. result may be `mine`.
template <class T>
void sum_in_rank_order(view<T, 2> const& values, view<T, 1> const& mine, int rank, view<T, 1> const& result) {
  for (index_t i = 0; i < result.extent(0); ++i) {
    T sum = rank == 0 ? mine(i) : values(0, i);
    for (index_t r = 1; r < values.extent(0); ++r) sum = static_cast<T>(sum + (r == rank ? mine(i) : values(r, i)));
    result(i) = sum;
  }
}

} // namespace detail

/// Everybody's `mine` to everybody: receives holds one parcel per rank. The own parcel may be empty: that part is in place.
/// Taken from `tables` until wait(): one parcel per rank. Every rank's receive parcel for rank r counts as many bytes as r's `mine`.
/// An operation of the queue, where one is given, see exchange().
template <communicator C, queue Q>
[[nodiscard]] auto all_gather_v(C const& c, char const* primitive, std::span<piece const> mine, std::span<parcel const> receives,
                                allocator& tables, Q const& q) {
  bool own_in_place = true;
  for (parcel const& p : receives)
    if (p.peer == c.rank() && total_bytes(p.pieces) > 0) own_in_place = false;
  index_t const count = has_all_gather_v<C> ? 1 : c.size();
  owned<parcel, 1> sends(tables, {count}); // (ranks) or (1)
  traffic const t{primitive, {sends.tensor.data, std::size_t(count)}, receives};
  if constexpr (has_all_gather_v<C>) {
    sends.tensor(0) = {c.rank(), mine};
    detail::require_readable(c, t);
    if constexpr (requires { c.all_gather_v(t, q); }) {
      return detail::parcel_token(std::move(sends), c.all_gather_v(t, q));
    } else {
      detail::finish_before_sending<C>(q);
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
                                allocator& tables) {
  return sp::all_gather_v(c, primitive, mine, receives, tables, inline_queue{});
}

/// mine = sum over all ranks, in rank order, of the parts[rank()] they give. parts[r] has the extent of rank r's `mine` on every
/// rank; mine may be parts[rank()] itself. Blocking. The fallback needs scratch for size() times mine, and host memory.
template <communicator C, class T>
void reduce_scatter(C const& c, std::type_identity_t<std::span<view<T, 1, typename C::memory_type> const>> parts,
                    view<T, 1, typename C::memory_type> mine, allocator& scratch, char const* primitive = "reduce_scatter") {
  static_assert(std::is_arithmetic_v<T>, "sp::reduce_scatter sums arithmetic types; widen bf16 and fp16 to float first");
  int const rank = c.rank(), size = c.size();
  if (parts.size() != std::size_t(size) || parts[std::size_t(rank)].extent(0) != mine.extent(0))
    fail({errc::invalid_shape,
          std::to_string(parts.size()) + " parts were given to " + std::to_string(size) +
              " ranks, or the own part and the result differ in extent",
          "Give one part per rank", primitive, rank, size});
  if constexpr (has_reduce_scatter<C, T>) {
    c.reduce_scatter(parts, mine);
  } else {
    static_assert(
        std::is_same_v<typename C::memory_type, host_memory>,
        "sp::reduce_scatter cannot sum this memory on the CPU: the communicator needs a member reduce_scatter(parts, mine)");
    detail::reduce_scatter_memory<T> memory(scratch, mine.extent(0), size);
    for (int r = 0; r < size; ++r) {
      if (r == rank) continue;
      memory.sends.open(r);
      memory.sends.add(parts[std::size_t(r)]);
      memory.receives.open(r);
      memory.receives.add(memory.values.tensor.narrow(0, r, 1));
    }
    c.exchange(traffic{primitive, memory.sends.parcels(), memory.receives.parcels()}).wait();
    detail::sum_in_rank_order(memory.values.tensor, parts[std::size_t(rank)], rank, mine);
  }
}

namespace detail {

/// Everybody gets everybody's values and sums them itself: one exchange.
template <communicator C, class T>
void all_reduce_small(C const& c, view<T, 1> v, allocator& scratch, char const* primitive) {
  int const rank = c.rank(), size = c.size();
  owned<T, 2> values(scratch, {size, v.extent(0)}); // (ranks, n); the own row is not used
  parcel_builder receives(scratch, size, size);
  piece const mine = as_piece(v);
  for (int r = 0; r < size; ++r) {
    receives.open(r);
    if (r != rank) receives.add(values.tensor.narrow(0, r, 1));
  }
  sp::all_gather_v(c, primitive, {&mine, 1}, receives.parcels(), scratch).wait();
  sum_in_rank_order(values.tensor, v, rank, v);
}

/// Rank r sums part r, then everybody gets everybody's part: 2 (size - 1) / size of the bytes sent by each rank.
template <communicator C, class T>
void all_reduce_large(C const& c, view<T, 1> v, allocator& scratch, char const* primitive) {
  int const rank = c.rank(), size = c.size();
  auto part = [&](int r) {
    return v.narrow(0, cut(v.extent(0), r, size), cut(v.extent(0), r + 1, size) - cut(v.extent(0), r, size));
  };
  owned<view<T, 1>, 1> parts(scratch, {size});
  for (int r = 0; r < size; ++r) parts.tensor(r) = part(r);
  sp::reduce_scatter(c, {parts.tensor.data, std::size_t(size)}, part(rank), scratch, primitive);
  parcel_builder receives(scratch, size, size);
  for (int r = 0; r < size; ++r) {
    receives.open(r);
    if (r != rank) receives.add(part(r));
  }
  piece const mine = as_piece(part(rank));
  sp::all_gather_v(c, primitive, {&mine, 1}, receives.parcels(), scratch).wait();
}

} // namespace detail

/// v = sum of everybody's v, the same bits on every rank; the fallback adds in rank order. Blocking.
/// The fallback needs host memory, and scratch as all_reduce_scratch() says.
template <communicator C, class T>
void all_reduce(C const& c, view<T, 1, typename C::memory_type> v, basic_allocator<typename C::memory_type>& scratch,
                char const* primitive = "all_reduce") {
  static_assert(std::is_arithmetic_v<T>, "sp::all_reduce sums arithmetic types; widen bf16 and fp16 to float first");
  if constexpr (has_all_reduce<C, T>) {
    c.all_reduce(v);
  } else {
    static_assert(std::is_same_v<typename C::memory_type, host_memory>,
                  "sp::all_reduce cannot sum this memory on the CPU: the communicator needs a member all_reduce(view)");
    if (c.size() == 1) return;
    if (v.extent(0) <= detail::small_all_reduce)
      detail::all_reduce_small(c, v, scratch, primitive);
    else
      detail::all_reduce_large(c, v, scratch, primitive);
  }
}

/// Bytes that all_gather_v takes from its allocator.
[[nodiscard]] inline index_t all_gather_scratch(int ranks) {
  byte_counter counter;
  owned<parcel, 1> sends(counter, {ranks});
  return counter.bytes();
}

/// Bytes that reduce_scatter takes from its allocator for an own part of n values.
template <class T>
[[nodiscard]] index_t reduce_scatter_scratch(index_t n, int ranks) {
  byte_counter counter;
  detail::reduce_scatter_memory<T> memory(counter, n, ranks);
  return counter.bytes();
}

/// Bytes that all_reduce takes from its allocator for n values.
template <class T>
[[nodiscard]] index_t all_reduce_scratch(index_t n, int ranks) {
  byte_counter counter;
  if (n <= detail::small_all_reduce) {
    owned<T, 2> values(counter, {ranks, n});
  } else {
    owned<view<T, 1>, 1> parts(counter, {ranks});
    detail::reduce_scatter_memory<T> memory(counter, detail::largest_cut(n, ranks), ranks);
  }
  parcel_builder receives(counter, ranks, ranks);
  return counter.bytes() + all_gather_scratch(ranks);
}

/// The root's pieces to everybody's pieces. Blocking. The fallback takes log2(size) exchanges and no scratch: in round k the
/// first 2^k ranks, counted from the root, send to the next 2^k.
template <communicator C>
void broadcast(C const& c, std::span<piece const> pieces, int root, char const* primitive = "broadcast") {
  int const size = c.size();
  if (root < 0 || root >= size)
    fail({errc::bad_state, "rank " + std::to_string(root) + " is not in the group", "Name a rank of this group as root",
          primitive, c.rank(), size});
  if constexpr (has_broadcast<C>) {
    c.broadcast(pieces, root);
  } else {
    int const place = (c.rank() - root + size) % size;
    for (int have = 1; have < size; have *= 2) {
      bool const gives = place < have && place + have < size, takes = place >= have && place < 2 * have;
      parcel const p{(place + (gives ? have : -have) + root + size) % size, pieces};
      std::span<parcel const> const one(&p, 1), none;
      c.exchange(traffic{primitive, gives ? one : none, takes ? one : none}).wait();
    }
  }
}

/// Nobody leaves before everybody has come. The fallback sends one byte to the rank 1, 2, 4, ... further on.
template <communicator C>
void barrier(C const& c) {
  if constexpr (has_barrier<C>) {
    c.barrier();
  } else {
    static_assert(std::is_same_v<typename C::memory_type, host_memory>,
                  "sp::barrier cannot send a byte of this memory: the communicator needs a member barrier()");
    char out = 0, in = 0;
    piece const sent = as_piece(view<char, 1>(&out, {1})), got = as_piece(view<char, 1>(&in, {1}));
    for (int step = 1; step < c.size(); step *= 2) {
      parcel const to{(c.rank() + step) % c.size(), {&sent, 1}}, from{(c.rank() + c.size() - step) % c.size(), {&got, 1}};
      c.exchange(traffic{"barrier", {&to, 1}, {&from, 1}}).wait();
    }
  }
}

} // namespace sp
