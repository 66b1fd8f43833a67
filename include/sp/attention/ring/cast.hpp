// The cast schedule: each rank is sent exactly the key rows that its queries see, by chunks of heads, the next chunk in flight; their
// gradients come back in the type of sums. Keys are visited in document order: out, lse and dq do not depend on the number of ranks.
#pragma once

#include <sp/attention/ring/head_chunk.hpp>

namespace sp::detail {

/// Stands for keys that are not at hand and that nobody sees.
template <class T>
inline constexpr T absent_key{};

/// Rows [at, at + n) of a buffer that is dense in (rows, heads of a chunk, dim).
template <class E>
view<E, 3> chunk_rows(owned<E, 3> const& all, index_t at, index_t n, index_t heads) {
  index_t const dim = all.tensor.extent(2);
  return {all.tensor.data + at * heads * dim, {n, heads, dim}};
}

/// The keys and values of one chunk of heads that this rank's queries see, on their way while the chunk before is computed.
template <class T, class Comm>
class held_chunk {
public:
  held_chunk(Comm const& comm, allocator& scratch, held_keys const& held, kv_views<T> const& like)
      : comm_(comm), held_(held), send_(scratch, comm.size(), 2 * held.sent_intervals()),
        receive_(scratch, comm.size(), 2 * comm.size()), by_rank_(scratch, {comm.size() + 1}),
        rows_(scratch, held.rows.rows_received(), like) {}

  void post(char const* primitive, kv_views<T> const& own) {
    send_.clear();
    receive_.clear();
    index_t at = 0;
    for (int r = 0; r < comm_.size(); ++r) {
      send_.open(r);
      for (auto const& v : {own.k, own.v})
        for (interval const& i : held_.rows.sent(r)) send_.add(v.rows(i.first, i.count));
      receive_.open(r);
      index_t const n = held_.rows.rows_received(r);
      auto k = chunk_rows(rows_.k, at, n, own.k.extent(1)), v = chunk_rows(rows_.v, at, n, own.v.extent(1));
      receive_.add(k);
      receive_.add(v);
      by_rank_.tensor(r) = {k, v};
      at += n;
    }
    by_rank_.tensor(comm_.rank()) = own; // stays where it is
    by_rank_.tensor(comm_.size()) = {absent(own.k), absent(own.v)};
    flight_.emplace(sp::all_to_all_v(comm_, traffic{primitive, send_.parcels(), receive_.parcels()}));
  }
  std::span<kv_views<T> const> wait() {
    flight_->wait();
    flight_.reset();
    return {by_rank_.tensor.data, std::size_t(comm_.size()) + 1};
  }

private:
  view<T const, 3> absent(view<T const, 3> const& like) const {
    return {&absent_key<T>, {held_.absent_rows, like.extent(1), like.extent(2)}, {0, 0, 0}};
  }

  Comm const& comm_;
  held_keys const& held_;
  parcel_builder send_, receive_;
  owned<kv_views<T>, 1> by_rank_; // (ranks and the absent)
  key_buffer<T, T> rows_;
  std::optional<decltype(sp::all_to_all_v(std::declval<Comm const&>(), std::declval<traffic const&>()))> flight_;
};

/// Buffers for the chunks of a call: two where there is a next chunk.
template <class T, class Comm>
struct cast_buffers {
  index_t chunks;
  kv_views<T> widest; ///< the cut rule gives the last chunk the most heads
  held_chunk<T, Comm> first;
  std::optional<held_chunk<T, Comm>> second;

  cast_buffers(Comm const& comm, allocator& scratch, held_keys const& held, heads on, index_t wanted, kv_views<T> const& own)
      : chunks(head_chunk::number(on, wanted)), widest(of(head_chunk::of(on, chunks - 1, chunks), own)),
        first(comm, scratch, held, widest) {
    if (chunks > 1) second.emplace(comm, scratch, held, widest);
  }

  static kv_views<T> of(head_chunk const& p, kv_views<T> const& own) { return {p.keys(own.k), p.keys(own.v)}; }
  held_chunk<T, Comm>& at(index_t chunk) { return chunk % 2 ? *second : first; }

  /// Runs f(chunk, keys at hand, index of the chunk) for each chunk of heads, with the next chunk in flight.
  template <class F>
  void for_each(char const* primitive, heads on, kv_views<T> const& own, F&& f) {
    auto chunk = [&](index_t i) { return head_chunk::of(on, i, chunks); };
    at(0).post(primitive, of(chunk(0), own));
    for (index_t i = 0; i < chunks; ++i) {
      auto const keys = at(i).wait();
      if (i + 1 < chunks) at(i + 1).post(primitive, of(chunk(i + 1), own));
      f(chunk(i), keys, i);
    }
  }
};

/// Gradients of the keys at hand, and what the readers of the own keys found for them.
template <class T, class Comm>
class cast_gradients {
public:
  using A = accumulate_t<T>;

  cast_gradients(Comm const& comm, allocator& scratch, held_keys const& held, kv_views<T> const& like)
      : comm_(comm), held_(held), send_(scratch, comm.size(), 2 * comm.size()), receive_(scratch, comm.size(), 2 * comm.size()),
        by_rank_(scratch, {comm.size() + 1}), found_(scratch, held.rows.rows_received(), like),
        arrived_(scratch, held.rows.rows_sent(), like) {}

  /// Zeroed gradients beside the keys at hand; those of own keys are added to where they are wanted.
  std::span<key_grad<T> const> begin(std::span<kv_views<T> const> keys, key_grad<T> const& own) {
    send_.clear();
    receive_.clear();
    index_t const heads = own.k.extent(1);
    index_t at = 0, arrives = 0;
    for (int r = 0; r < comm_.size(); ++r) {
      index_t const n = held_.rows.rows_received(r), m = held_.rows.rows_sent(r);
      auto dk = chunk_rows(found_.k, at, n, heads), dv = chunk_rows(found_.v, at, n, heads);
      fill(dk, A{});
      fill(dv, A{});
      auto const& held = keys[std::size_t(r)];
      by_rank_.tensor(r) = r == comm_.rank() ? own : key_grad<T>{held.k, held.v, dk, dv};
      send_.open(r);
      send_.add(dk);
      send_.add(dv);
      receive_.open(r);
      receive_.add(chunk_rows(arrived_.k, arrives, m, heads));
      receive_.add(chunk_rows(arrived_.v, arrives, m, heads));
      at += n;
      arrives += m;
    }
    auto const& absent = keys[std::size_t(comm_.size())];
    by_rank_.tensor(comm_.size()) = {absent.k, absent.v, {}, {}};
    return {by_rank_.tensor.data, std::size_t(comm_.size()) + 1};
  }

  /// own += what the readers found: the sum of all shares, this rank's among them, in rank order.
  void come_home(char const* primitive, key_grad<T> const& own) {
    sp::all_to_all_v(comm_, traffic{primitive, send_.parcels(), receive_.parcels()}).wait();
    index_t const s = held_.rows.rows_sent(), heads = own.k.extent(1);
    add_up(own.dk, chunk_rows(arrived_.k, 0, s, heads));
    add_up(own.dv, chunk_rows(arrived_.v, 0, s, heads));
  }

private:
  /// The sums of the ranks before this one are made in the place of the first of them, so that own rows are no more than added to.
  void add_up(view<A, 3> const& own, view<A, 3> const& arrived) const {
    for (shared_rows const& x : held_.shared) {
      auto const source = [&](std::size_t i) { return arrived.rows(held_.sources[i], x.count); };
      for (std::size_t i = x.begin + 1; i < x.own; ++i) add(source(x.begin), source(i));
      if (x.own > x.begin) add(own.rows(x.first, x.count), source(x.begin));
      for (std::size_t i = x.own; i < x.end; ++i) add(own.rows(x.first, x.count), source(i));
    }
  }

  Comm const& comm_;
  held_keys const& held_;
  parcel_builder send_, receive_;
  owned<key_grad<T>, 1> by_rank_; // (ranks and the absent)
  key_buffer<T, A> found_, arrived_;
};

/// Keys go to those who see them.
struct cast_schedule : runs_anywhere {
  static constexpr schedule how = schedule::cast;
  static constexpr char const* name = "cast";

  template <class Backend>
  static void prepare(Backend const& backend, ring_geometry<Backend>& g, ring_layouts const& l) {
    g.held.rows = key_cast(l.q, l.k, l.mask, l.part);
    prepare_sums(g.held);
    auto table = g.held.rows.table(l.k);
    if constexpr (requires { Backend::key_tile; }) g.held.absent_rows = complete_tiles(table, l.mask, Backend::key_tile, g.size);
    g.steps.push_back(backend.prepare({l.queries(), std::move(table), l.mask}));
  }

  template <class T, class Comm, class Backend, class SavedList>
  static void forward(ring_call<Comm, Backend> const& c, view<T const, 3> q, kv_views<T> own, attention_state<T> state,
                      SavedList& by_backend) {
    heads const on = c.numbers.heads;
    cast_buffers<T, Comm> buffers(c.comm, c.scratch, c.geometry.held, on, c.head_chunks, own);
    buffers.for_each("ring.forward.cast", on, own, [&](head_chunk const& p, std::span<kv_views<T> const> keys, index_t) {
      call_params numbers = c.numbers;
      numbers.heads = p.on;
      attention_state<T> s{p.queries(state.out), p.queries(state.lse)};
      by_backend.push(c.backend.template forward<T>(c.geometry.steps[0], c.scratch, numbers, p.queries(q), keys, s));
    });
  }

  template <class T, class Comm, class Backend, class SavedList>
  static void backward(ring_call<Comm, Backend> const& c, query_grad<T> const& qg, key_grad<T> const& own,
                       SavedList const& by_backend) {
    heads const on = c.numbers.heads;
    cast_buffers<T, Comm> buffers(c.comm, c.scratch, c.geometry.held, on, c.head_chunks, {own.k, own.v});
    cast_gradients<T, Comm> gradients(c.comm, c.scratch, c.geometry.held, buffers.widest);
    buffers.for_each(
        "ring.backward.cast", on, {own.k, own.v}, [&](head_chunk const& p, std::span<kv_views<T> const> keys, index_t i) {
          call_params numbers = c.numbers;
          numbers.heads = p.on;
          query_grad<T> queries{p.queries(qg.q),   p.queries(qg.out),   p.queries(qg.dout),
                                p.queries(qg.lse), p.queries(qg.delta), p.queries(qg.dq)};
          key_grad<T> const mine{p.keys(own.k), p.keys(own.v), p.keys(own.dk), p.keys(own.dv)};
          c.backend.template backward<T>(c.geometry.steps[0], c.scratch, numbers, std::span<query_grad<T> const>(&queries, 1),
                                         gradients.begin(keys, mine), by_backend.at(int(i)));
          gradients.come_home("ring.backward.gradients", mine);
        });
  }

  template <class T, class Comm, class Backend>
  static void take_scratch(ring_call<Comm, Backend> const& c, kv_views<T> const& own) {
    cast_buffers<T, Comm> buffers(c.comm, c.scratch, c.geometry.held, c.numbers.heads, c.head_chunks, own);
    cast_gradients<T, Comm>(c.comm, c.scratch, c.geometry.held, buffers.widest);
  }
};

} // namespace sp::detail
