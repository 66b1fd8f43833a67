// The cast schedule: each rank is sent exactly the key rows that its queries see, by chunks of heads, the next chunk in flight; their
// gradients come back in the type of sums. Keys are visited in document order: out, lse and dq do not depend on the number of ranks.
#pragma once

#include <sp/attention/call/head_chunk.hpp>
#include <sp/attention/call/pipeline.hpp>
#include <sp/attention/ring/geometry.hpp>
#include <sp/layout/route_exchange.hpp>

namespace sp::detail {

/// Rows [at, at + n) of a buffer that is dense in (rows, heads of a chunk, dim).
template <class E, class M>
view<E, 3, M> chunk_rows(owned<E, 3, M> const& all, index_t at, index_t n, index_t heads) {
  index_t const dim = all.tensor.extent(2);
  return {all.tensor.data + at * heads * dim, {n, heads, dim}};
}

/// Keys and values, or their gradients, that move along one route.
template <class E, class Call>
struct routed_pair {
  using moved = routed<E, E, 3, false, typename Call::memory_type>;
  using token = decltype(sp::exchange(std::declval<typename Call::communicator_type const&>(), "",
                                      std::declval<context<typename Call::queue_type> const&>(), std::declval<moved const&>(),
                                      std::declval<moved const&>()));
  moved k, v;

  token start(Call const& c, char const* primitive) const { return sp::exchange(c.comm, primitive, c.ctx, k, v); }
  /// What the exchange takes until its token has been waited for.
  template <class Keys>
  static void take_scratch(Call const& c, route const& along, Keys const& like) {
    using memory_type = typename Call::memory_type;
    auto of = [&](auto const& x) {
      auto rows = [&](index_t n) { return view<E, 3, memory_type>(nullptr, {n, x.extent(1), x.extent(2)}); };
      return moved(along, rows(along.from_rows()), rows(along.to_rows()));
    };
    route_memory<typename Call::communicator_type, moved, moved>(c.ctx, c.comm.size(), of(like.k), of(like.v));
  }
};

/// The keys and values of one chunk of heads that this rank's queries see, on their way while the chunk before is computed.
template <class T, class Call>
class held_chunk {
public:
  using keys = kv_views<T, typename Call::memory_type>;
  using pair = routed_pair<T, Call>;

  held_chunk(Call const& c, keys const& like)
      : call_(c), held_(c.geometry.held), by_rank_(*c.ctx.lists, {c.comm.size() + 1}),
        rows_(*c.ctx.scratch, held_.rows.rows_received(), like) {}

  /// Sets out; what at_hand() says is there once this has been waited for. `absent` stands for keys that are not at hand and that
  /// nobody sees.
  typename pair::token start(char const* primitive, keys const& own, keys const& absent) {
    index_t const heads = own.k.extent(1);
    index_t at = 0;
    int const size = call_.comm.size();
    for (int r = 0; r < size; ++r) {
      index_t const n = held_.rows.rows_received(r);
      by_rank_.tensor(r) = {chunk_rows(rows_.k, at, n, heads), chunk_rows(rows_.v, at, n, heads)};
      at += n;
    }
    by_rank_.tensor(call_.comm.rank()) = own; // stays where it is
    by_rank_.tensor(size) = absent;
    route const& along = held_.to_readers;
    return pair{{along, own.k, chunk_rows(rows_.k, 0, at, heads)}, {along, own.v, chunk_rows(rows_.v, 0, at, heads)}}.start(
        call_, primitive);
  }
  std::span<keys const> at_hand() const { return {by_rank_.tensor.data, std::size_t(call_.comm.size()) + 1}; }

private:
  Call const& call_;
  held_keys const& held_;
  owned<keys, 1> by_rank_; // (ranks and the absent)
  key_buffer<T, typename Call::memory_type> rows_;
};

/// Buffers for the chunks of a call: two where there is a next chunk.
template <class T, class Call>
class cast_buffers {
public:
  using memory_type = typename Call::memory_type;
  using keys = kv_views<T, memory_type>;

  cast_buffers(Call const& c, keys const& own)
      : call_(c), own_(own), chunks_(chunks_of_heads::at_most(c.numbers.heads, c.head_chunks)),
        absent_(*c.ctx.scratch, {c.geometry.held.absent_rows > 0 ? 1 : 0}), first_(c, widest()) {
    if (chunks_.count > 1) second_.emplace(c, widest());
  }

  /// Own keys and values, as many heads as the widest chunk has.
  keys widest() const { return head_chunk{{.kv_count = chunks_.widest(head_cut::kind::kv)}}.keys(own_); }

  /// Runs f(chunk, keys at hand, index of the chunk) for each chunk of heads, with the next chunk in flight.
  template <class F>
  void for_each(char const* primitive, F&& f) {
    sp::fill(call_.ctx.queue, absent_.tensor, T{});
    auto send = [&](index_t i) {
      keys const own = chunks_.at(i).keys(own_);
      return at(i).start(primitive, own, {absent(own.k), absent(own.v)});
    };
    pipelined(chunks_.count, send, [&](index_t i) { f(chunks_.at(i), at(i).at_hand(), i); });
  }

private:
  held_chunk<T, Call>& at(index_t chunk) { return chunk % 2 ? *second_ : first_; }
  /// One zero in the place of every element.
  view<T const, 3, memory_type> absent(view<T const, 3, memory_type> const& like) const {
    return {absent_.tensor.data, {call_.geometry.held.absent_rows, like.extent(1), like.extent(2)}, {0, 0, 0}};
  }

  Call const& call_;
  keys own_;
  chunks_of_heads chunks_;
  owned<T, 1, memory_type> absent_;
  held_chunk<T, Call> first_;
  std::optional<held_chunk<T, Call>> second_;
};

/// An element of the own gradients: plus what readers found for it, in rank order, the own share in its place among them.
template <class A, class M>
struct add_shares {
  view<A, 3, M> own, arrived;
  typename landing_table<M>::lists readers;
  index_t rank;

  SP_BOTH void operator()(index_t i, index_t h, index_t d) const {
    index_t e = readers.first(i);
    index_t const end = readers.first(i + 1);
    A& x = own(i, h, d);
    if (is_before(e, end)) {
      A sum = share(e++, h, d);
      while (is_before(e, end)) sum += share(e++, h, d);
      x += sum;
    }
    while (e < end) x += share(e++, h, d);
  }

private:
  SP_BOTH bool is_before(index_t e, index_t end) const { return e < end && readers.arrivals(e).peer < rank; }
  SP_BOTH A share(index_t e, index_t h, index_t d) const {
    arrival const& at = readers.arrivals(e);
    return arrived(at.before + at.row, h, d);
  }
};

/// Gradients of the keys at hand, and what the readers of the own keys found for them.
template <class T, class Call>
class cast_gradients {
public:
  using A = accumulate_t<T>;
  using M = typename Call::memory_type;
  using grad = key_grad<T, M>;

  cast_gradients(Call const& c, kv_views<T, M> const& like)
      : call_(c), held_(c.geometry.held), by_rank_(*c.ctx.lists, {c.comm.size() + 1}),
        found_(*c.ctx.scratch, held_.rows.rows_received(), like), arrived_(*c.ctx.scratch, held_.rows.rows_sent(), like) {}

  /// Zeroed gradients beside the keys at hand; those of own keys are added to where they are wanted.
  std::span<grad const> begin(std::span<kv_views<T, M> const> keys, grad const& own) {
    index_t const heads = own.k.extent(1);
    index_t at = 0;
    int const size = call_.comm.size();
    for (int r = 0; r < size; ++r) {
      index_t const n = held_.rows.rows_received(r);
      auto const& held = keys[std::size_t(r)];
      by_rank_.tensor(r) = {held.k, held.v, chunk_rows(found_.k, at, n, heads), chunk_rows(found_.v, at, n, heads)};
      at += n;
    }
    sp::fill(call_.ctx.queue, chunk_rows(found_.k, 0, at, heads), A{});
    sp::fill(call_.ctx.queue, chunk_rows(found_.v, 0, at, heads), A{});
    auto const& absent = keys[std::size_t(size)];
    by_rank_.tensor(call_.comm.rank()) = own;
    by_rank_.tensor(size) = {absent.k, absent.v, {}, {}};
    return {by_rank_.tensor.data, std::size_t(size) + 1};
  }

  /// own += what the readers found: the sum of all shares, this rank's among them, in rank order.
  void come_home(char const* primitive, grad const& own) {
    route const& along = held_.to_owners;
    index_t const r = along.from_rows(), s = along.to_rows(), heads = own.k.extent(1);
    auto const dk = chunk_rows(arrived_.k, 0, s, heads), dv = chunk_rows(arrived_.v, 0, s, heads);
    routed_pair<A, Call>{{along, chunk_rows(found_.k, 0, r, heads), dk}, {along, chunk_rows(found_.v, 0, r, heads), dv}}
        .start(call_, primitive)
        .wait();
    add_up(own.dk, dk);
    add_up(own.dv, dv);
  }

private:
  /// In one pass where a table says who lands. On the host it is faster range by range: the sums of the ranks before this one are made
  /// in the place of the first of them, so that own rows are no more than added to.
  void add_up(view<A, 3, M> const& own, view<A, 3, M> const& arrived) const {
    auto const& queue = call_.ctx.queue;
    if constexpr (!std::is_same_v<M, host_memory>)
      if (auto const& readers = call_.geometry.readers; readers.made())
        return queue.for_each(own.extents, add_shares<A, M>{own, arrived, readers.read(), call_.comm.rank()});
    for (shared_rows const& x : held_.shared) {
      auto const source = [&](std::size_t i) { return arrived.rows(held_.sources[i], x.count); };
      for (std::size_t i = x.begin + 1; i < x.own; ++i) add(queue, source(x.begin), source(i));
      if (x.own > x.begin) add(queue, own.rows(x.first, x.count), source(x.begin));
      for (std::size_t i = x.own; i < x.end; ++i) add(queue, own.rows(x.first, x.count), source(i));
    }
  }

  Call const& call_;
  held_keys const& held_;
  owned<grad, 1> by_rank_; // (ranks and the absent)
  key_buffer<A, M> found_, arrived_;
};

/// Keys go to those who see them.
struct cast_schedule : runs_anywhere {
  static constexpr schedule how = schedule::cast;
  static constexpr char const* name = "cast";

  template <class Planner, class Backend>
  static void prepare(Planner const& plans, ring_geometry<Backend>& g, ring_layouts const& l) {
    g.held = {};
    g.held.rows = key_cast(l.q, l.k, l.mask, l.part);
    prepare_routes(g.held, l.k.tokens(l.part));
    prepare_sums(g.held);
    if constexpr (requires { plans.where.queue; }) g.readers.assign(plans.where, g.held.to_readers.transposed());
    auto table = g.held.rows.table(l.k);
    if constexpr (requires { Backend::key_tile; }) g.held.absent_rows = complete_tiles(table, l.mask, Backend::key_tile, g.size);
    g.add_step(plans, {l.queries(), std::move(table), l.mask});
  }

  template <class T, class Call, class M, class SavedList>
  static void forward(Call const& c, view<T const, 3, M> q, kv_views<T, M> own, attention_state<T, M> state,
                      SavedList& by_backend) {
    cast_buffers<T, Call> buffers(c, own);
    buffers.for_each("ring.forward.cast", [&](head_chunk const& p, std::span<kv_views<T, M> const> keys, index_t) {
      attention_state<T, M> const s = p.queries(state);
      by_backend.push(c.template forward<T>(c.geometry.steps[0], p.numbers(c.numbers), p.queries(q), keys, s));
    });
  }

  template <class T, class Call, class M, class SavedList>
  static void backward(Call const& c, query_grad<T, M> const& qg, key_grad<T, M> const& own, SavedList const& by_backend) {
    cast_buffers<T, Call> buffers(c, {own.k, own.v});
    cast_gradients<T, Call> gradients(c, buffers.widest());
    buffers.for_each("ring.backward.cast", [&](head_chunk const& p, std::span<kv_views<T, M> const> keys, index_t i) {
      query_grad<T, M> const queries = p.queries(qg);
      key_grad<T, M> const mine = p.keys(own);
      c.template backward<T>(c.geometry.steps[0], p.numbers(c.numbers), std::span<query_grad<T, M> const>(&queries, 1),
                             gradients.begin(keys, mine), by_backend.at(int(i)));
      gradients.come_home("ring.backward.gradients", mine);
    });
  }

  template <class T, class Call, class M>
  static void take_scratch(Call const& c, kv_views<T, M> const& own) {
    cast_buffers<T, Call> const buffers(c, own);
    cast_gradients<T, Call> const gradients(c, buffers.widest());
    routed_pair<T, Call>::take_scratch(c, c.geometry.held.to_readers, buffers.widest());
    routed_pair<accumulate_t<T>, Call>::take_scratch(c, c.geometry.held.to_owners, buffers.widest());
  }
};

} // namespace sp::detail
