// Sums over ranks, reduce_scatter and all_reduce: a communicator's own where it has them, an exchange and a sum on the queue otherwise.
// Fallback sums run in rank order: the same bits on every rank and in every memory. Calls with a context return tokens, others block.
#pragma once

#include <optional>

#include <sp/collective/operations.hpp>

namespace sp {

namespace detail {

/// Values up to this many are summed by everybody: one exchange instead of two.
inline constexpr index_t small_all_reduce = 256;

/// Number of values in one rank's part at most.
[[nodiscard]] constexpr index_t largest_cut(index_t n, int parts) { return ceil_div(n, parts); }

/// result(i) = sum over r, in rank order, of row r of `values`, where row `rank` is `mine` instead. result may be `mine`.
template <class T, class M>
struct sum_in_rank_order {
  view<T, 2, M> values;       // (ranks, n)
  view<T, 1, M> mine, result; // (n)
  int rank;
  SP_BOTH constexpr void operator()(index_t i) const {
    T sum = rank == 0 ? mine(i) : values(0, i);
    for (index_t r = 1; r < values.extent(0); ++r) sum = static_cast<T>(sum + (r == rank ? mine(i) : values(r, i)));
    result(i) = sum;
  }
};

/// What reduce_scatter takes from a context for parts of n values.
template <class T, class Queue>
struct reduce_scatter_memory {
  owned<T, 2, typename Queue::memory_type> values; // (ranks, n): the parts of the other ranks; the own row is not used
  parcel_builder sends, receives;
  reduce_scatter_memory(context<Queue> const& ctx, index_t n, int ranks)
      : values(*ctx.scratch, {ranks, n}), sends(*ctx.lists, ranks, ranks), receives(*ctx.lists, ranks, ranks) {}
};

/// What all_reduce takes from a context besides, for n values that everybody sums or, if none, for parts that are in place.
template <class T, class Queue>
struct all_reduce_memory {
  owned<T, 2, typename Queue::memory_type> values; // (ranks, n); the own row is not used
  parcel_builder receives;
  owned<piece, 1> mine; // (1)
  all_reduce_memory(context<Queue> const& ctx, index_t n, int ranks)
      : values(*ctx.scratch, {ranks, n}), receives(*ctx.lists, ranks, ranks), mine(*ctx.lists, {min(ranks, 1)}) {}
};

/// Values of the ranks on their way to this one, which sums them when they have come.
template <class T, class Queue, class Memory, token Token>
class sum_token {
  using M = typename Queue::memory_type;

public:
  /// One rank alone: nothing is on its way.
  sum_token(Queue const& q, Memory&& memory) : queue_(q), memory_(std::move(memory)) {}
  template <class Start>
  sum_token(Queue const& q, Memory&& memory, view<T, 1, M> mine, view<T, 1, M> result, int rank, Start&& start)
      : queue_(q), memory_(std::move(memory)), sum_{memory_.values.tensor, mine, result, rank}, flight_(start(memory_)) {}

  /// Behind it the sums are there for all work that the queue is given.
  void wait() {
    if (!flight_) return;
    flight_->wait();
    if (sum_.values.extent(1) > 0) queue_.for_each(sum_.result.extents, sum_);
  }

private:
  [[no_unique_address]] Queue queue_;
  Memory memory_; // dies after the token of the exchange that reads it
  sum_in_rank_order<T, M> sum_{};
  std::optional<Token> flight_;
};

/// Refuses parts that are not one for each rank, or not of the extent of the result.
template <communicator C, class T, class M>
void check_parts(C const& c, std::span<view<T, 1, M> const> parts, view<T, 1, M> const& mine, char const* primitive) {
  static_assert(std::is_arithmetic_v<T>, "sp::reduce_scatter sums arithmetic types; widen bf16 and fp16 to float first");
  if (parts.size() != std::size_t(c.size()) || parts[std::size_t(c.rank())].extent(0) != mine.extent(0))
    fail({errc::invalid_shape,
          std::to_string(parts.size()) + " parts were given to " + std::to_string(c.size()) +
              " ranks, or the own part and the result differ in extent",
          "Give one part per rank", primitive, c.rank(), c.size()});
}

/// The fallback of reduce_scatter.
template <communicator C, class Queue, class T, class M>
auto start_reduce_scatter(C const& c, std::span<view<T, 1, M> const> parts, view<T, 1, M> const& mine, context<Queue> const& ctx,
                          char const* primitive) {
  int const rank = c.rank(), size = c.size();
  using memory = reduce_scatter_memory<T, Queue>;
  auto start = [&](memory& m) {
    for (int r = 0; r < size; ++r) {
      if (r == rank) continue;
      m.sends.open(r);
      m.sends.add(parts[std::size_t(r)]);
      m.receives.open(r);
      m.receives.add(m.values.tensor.narrow(0, r, 1));
    }
    return sp::exchange(c, traffic{primitive, m.sends.parcels(), m.receives.parcels()}, ctx.queue);
  };
  using flight = decltype(start(std::declval<memory&>()));
  return sum_token<T, Queue, memory, flight>(ctx.queue, memory(ctx, mine.extent(0), size), parts[std::size_t(rank)], mine, rank,
                                             start);
}

} // namespace detail

/// mine = sum over all ranks, in rank order, of the parts[rank()] they give. parts[r] has the extent of rank r's `mine` on every
/// rank; mine may be parts[rank()] itself. An operation of the context's queue, see exchange(): after wait() of the token `mine` is
/// there for all work that the queue is given, and so are parts[...] to be written. The fallback takes size() times mine from
/// context.scratch, lists from context.lists.
template <communicator C, class Queue, class T>
[[nodiscard]] auto reduce_scatter(C const& c, std::type_identity_t<std::span<view<T, 1, typename C::memory_type> const>> parts,
                                  view<T, 1, typename C::memory_type> mine, context<Queue> const& ctx,
                                  char const* primitive = "reduce_scatter") {
  detail::check_parts(c, parts, mine, primitive);
  if constexpr (has_reduce_scatter<C, T, Queue>)
    return detail::token_of([&]() -> decltype(auto) { return c.reduce_scatter(parts, mine, ctx.queue); });
  else if constexpr (has_reduce_scatter<C, T>) {
    detail::finish_before_sending(c, ctx.queue, primitive);
    return detail::token_of([&]() -> decltype(auto) { return c.reduce_scatter(parts, mine); });
  } else
    return detail::start_reduce_scatter(c, parts, mine, ctx, primitive);
}
/// The same, blocking: over host memory on the caller's thread, and over another by the communicator's own member.
template <communicator C, class T>
void reduce_scatter(C const& c, std::type_identity_t<std::span<view<T, 1, typename C::memory_type> const>> parts,
                    view<T, 1, typename C::memory_type> mine, [[maybe_unused]] basic_allocator<typename C::memory_type>& scratch,
                    char const* primitive = "reduce_scatter") {
  if constexpr (std::is_same_v<typename C::memory_type, host_memory>) {
    sp::reduce_scatter(c, parts, mine, context(scratch, scratch), primitive).wait();
  } else {
    static_assert(
        has_reduce_scatter<C, T>,
        "sp::reduce_scatter sums this memory as work of a queue: give a context instead of an allocator, or a communicator "
        "with a member reduce_scatter(parts, mine)");
    detail::check_parts(c, parts, mine, primitive);
    detail::token_of([&]() -> decltype(auto) { return c.reduce_scatter(parts, mine); }).wait();
  }
}

namespace detail {

/// The fallback of all_reduce. Few values: everybody gets everybody's and sums them, in one exchange. Many: rank r sums part r, then
/// everybody gets everybody's part: 2 (size - 1) / size of the bytes sent by each rank.
template <communicator C, class Queue, class T, class M>
auto start_all_reduce(C const& c, view<T, 1, M> const& v, context<Queue> const& ctx, char const* primitive) {
  int const rank = c.rank(), size = c.size();
  bool const few = v.extent(0) <= small_all_reduce;
  auto part = [&](int r) {
    index_t const begin = cut(v.extent(0), r, size);
    return v.narrow(0, begin, cut(v.extent(0), r + 1, size) - begin);
  };
  using memory = all_reduce_memory<T, Queue>;
  auto start = [&](memory& m) {
    m.mine.tensor(0) = as_piece(few ? v : part(rank));
    for (int r = 0; r < size; ++r) {
      m.receives.open(r);
      if (r == rank) continue;
      if (few)
        m.receives.add(m.values.tensor.narrow(0, r, 1));
      else
        m.receives.add(part(r));
    }
    return sp::all_gather_v(c, primitive, {m.mine.tensor.data, 1}, m.receives.parcels(), *ctx.lists, ctx.queue);
  };
  using flight = decltype(start(std::declval<memory&>()));
  using result = sum_token<T, Queue, memory, flight>;
  if (size == 1) return result(ctx.queue, memory(ctx, 0, 0));
  if (!few) {
    owned<view<T, 1, M>, 1> parts(*ctx.lists, {size});
    for (int r = 0; r < size; ++r) parts.tensor(r) = part(r);
    sp::reduce_scatter(c, {parts.tensor.data, std::size_t(size)}, part(rank), ctx, primitive).wait();
  }
  return result(ctx.queue, memory(ctx, few ? v.extent(0) : 0, size), v, v, rank, start);
}

} // namespace detail

/// v = sum of everybody's v, the same bits on every rank; the fallback adds in rank order, arithmetic types only. An operation of the
/// context's queue, see exchange(): after wait() of the token the sums are there for all work that the queue is given. The fallback takes
/// what all_reduce_scratch() says.
template <communicator C, class Queue, class T>
[[nodiscard]] auto all_reduce(C const& c, view<T, 1, typename C::memory_type> v, context<Queue> const& ctx,
                              char const* primitive = "all_reduce") {
  static_assert(std::is_arithmetic_v<T> || has_all_reduce<C, T, Queue> || has_all_reduce<C, T>,
                "sp::all_reduce sums arithmetic types; widen bf16 and fp16 to float first, or sum them by sp::native_sums");
  if constexpr (has_all_reduce<C, T, Queue>)
    return detail::token_of([&]() -> decltype(auto) { return c.all_reduce(v, ctx.queue); });
  else if constexpr (has_all_reduce<C, T>) {
    detail::finish_before_sending(c, ctx.queue, primitive);
    return detail::token_of([&]() -> decltype(auto) { return c.all_reduce(v); });
  } else
    return detail::start_all_reduce(c, v, ctx, primitive);
}
/// The same, blocking: over host memory on the caller's thread, and over another by the communicator's own member.
template <communicator C, class T>
void all_reduce(C const& c, view<T, 1, typename C::memory_type> v,
                [[maybe_unused]] basic_allocator<typename C::memory_type>& scratch, char const* primitive = "all_reduce") {
  if constexpr (std::is_same_v<typename C::memory_type, host_memory>) {
    sp::all_reduce(c, v, context(scratch, scratch), primitive).wait();
  } else {
    static_assert(
        has_all_reduce<C, T>,
        "sp::all_reduce sums this memory as work of a queue: give a context instead of an allocator, or a communicator with a "
        "member all_reduce(view)");
    detail::token_of([&]() -> decltype(auto) { return c.all_reduce(v); }).wait();
  }
}

/// Bytes that reduce_scatter takes from the scratch of a context of `q` for an own part of n values.
template <class T, queue Q = inline_queue>
[[nodiscard]] index_t reduce_scatter_scratch(index_t n, int ranks, Q const& q = {}) {
  return detail::counted_scratch(q, [&](context<Q> const& ctx) { detail::reduce_scatter_memory<T, Q> memory(ctx, n, ranks); });
}

/// Bytes that all_reduce takes from the scratch of a context of `q` for n values.
template <class T, queue Q = inline_queue>
[[nodiscard]] index_t all_reduce_scratch(index_t n, int ranks, Q const& q = {}) {
  return detail::counted_scratch(q, [&](context<Q> const& ctx) {
    bool const few = n <= detail::small_all_reduce;
    detail::all_reduce_memory<T, Q> memory(ctx, few ? n : 0, ranks);
    owned<parcel, 1> sends(*ctx.lists, {ranks});
    if (few) return;
    owned<view<T, 1, typename Q::memory_type>, 1> parts(*ctx.lists, {ranks});
    detail::reduce_scatter_memory<T, Q> sums(ctx, detail::largest_cut(n, ranks), ranks);
  });
}

} // namespace sp
