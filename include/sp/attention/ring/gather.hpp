// The gather schedule: everybody's keys by chunks of heads, the next chunk in flight; key gradients are reduce-scattered.
// Keys are visited in document order, so out, lse and dq do not depend on the number of ranks.
#pragma once

#include <sp/attention/ring/geometry.hpp>

namespace sp::detail {

/// kv heads [a, b) of the local ones and the query heads that use them.
struct head_chunk {
  heads on;
  index_t q = 0, kv = 0; ///< first local heads

  static head_chunk of(heads whole, index_t chunk, index_t chunks) {
    index_t a = cut(whole.kv_count, chunk, chunks), b = cut(whole.kv_count, chunk + 1, chunks);
    index_t q0 = max(whole.q_begin, (whole.kv_begin + a) * whole.q_per_kv);
    index_t q1 = max(q0, min(whole.q_begin + whole.q_count, (whole.kv_begin + b) * whole.q_per_kv));
    head_chunk r{whole, q0 - whole.q_begin, a};
    r.on.q_begin = q0;
    r.on.q_count = q1 - q0;
    r.on.kv_begin = whole.kv_begin + a;
    r.on.kv_count = b - a;
    return r;
  }
  template <class E, int R>
  view<E, R> queries(view<E, R> const& v) const {
    return v.narrow(1, q, on.q_count);
  }
  template <class E>
  view<E, 3> keys(view<E, 3> const& v) const {
    return v.narrow(1, kv, on.kv_count);
  }
};

/// Everybody's keys of one chunk of heads, gathered while the chunk before is computed.
template <class T, class Comm>
class gathered_keys {
public:
  gathered_keys(Comm const& comm, allocator& scratch, std::span<index_t const> rows, kv_views<T> like)
      : comm_(comm), scratch_(scratch), rows_(rows), send_(scratch, 1, 2),
        receive_(scratch, index_t(rows.size()), 2 * index_t(rows.size())), by_rank_(scratch, {index_t(rows.size())}) {
    index_t total = 0;
    for (std::size_t r = 0; r < rows.size(); ++r) total += int(r) == comm.rank() ? 0 : rows[r];
    all_ = key_buffer<T, T>(scratch, total, like);
  }

  void post(char const* primitive, kv_views<T> own) {
    send_.clear();
    receive_.clear();
    send_.open(comm_.rank());
    send_.add(own.k);
    send_.add(own.v);
    index_t at = 0;
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      receive_.open(int(r));
      if (int(r) == comm_.rank()) {
        by_rank_.tensor(index_t(r)) = own; // stays where it is
        continue;
      }
      // buffers are dense in (rows, heads of this chunk, dim)
      view<T, 3> k(all_.k.tensor.data, {rows_[r], own.k.extent(1), own.k.extent(2)}),
          v(all_.v.tensor.data, {rows_[r], own.v.extent(1), own.v.extent(2)});
      k.data += at * own.k.extent(1) * own.k.extent(2);
      v.data += at * own.v.extent(1) * own.v.extent(2);
      receive_.add(k);
      receive_.add(v);
      by_rank_.tensor(index_t(r)) = {k, v};
      at += rows_[r];
    }
    flight_.emplace(sp::all_gather_v(comm_, primitive, send_.parcels()[0].pieces, receive_.parcels(), scratch_));
  }
  std::span<kv_views<T> const> wait() {
    flight_->wait();
    flight_.reset();
    return {by_rank_.tensor.data, rows_.size()};
  }

private:
  Comm const& comm_;
  allocator& scratch_;
  std::span<index_t const> rows_;
  parcel_builder send_, receive_;
  owned<kv_views<T>, 1> by_rank_;
  key_buffer<T, T> all_;
  std::optional<decltype(sp::all_gather_v(std::declval<Comm const&>(), "", std::span<piece const>(), std::span<parcel const>(),
                                          std::declval<allocator&>()))>
      flight_;
};

template <class T, class Comm>
struct gather_buffers {
  index_t chunks;
  kv_views<T> widest; ///< the cut rule gives the last chunk the most heads
  gathered_keys<T, Comm> keys[2];

  gather_buffers(Comm const& comm, allocator& scratch, std::span<index_t const> rows, heads on, index_t wanted, kv_views<T> own)
      : chunks(max(1, min(wanted, on.kv_count))),
        widest(of(head_chunk::of(on, chunks - 1, chunks), own)), keys{{comm, scratch, rows, widest},
                                                                      {comm, scratch, rows, widest}} {}

  static kv_views<T> of(head_chunk const& p, kv_views<T> own) { return {p.keys(own.k), p.keys(own.v)}; }
};

/// Runs f(chunk, everybody's keys, index of the chunk) for each chunk of heads, with the next chunk in flight.
template <class T, class Comm, class F>
void for_each_gathered(char const* primitive, gather_buffers<T, Comm>& b, heads on, kv_views<T> own, F&& f) {
  auto chunk = [&](index_t i) { return head_chunk::of(on, i, b.chunks); };
  b.keys[0].post(primitive, b.of(chunk(0), own));
  for (index_t i = 0; i < b.chunks; ++i) {
    auto all = b.keys[i % 2].wait();
    if (i + 1 < b.chunks) b.keys[(i + 1) % 2].post(primitive, b.of(chunk(i + 1), own));
    f(chunk(i), all, i);
  }
}

/// Key gradients of everybody's rows, dk then dv per rank, dense, and the sum this rank gets back.
template <class T>
struct gather_sums {
  using A = accumulate_t<T>;
  std::span<index_t const> rows;
  owned<A, 1> all, mine;
  owned<key_grad<T>, 1> by_rank;
  owned<view<A, 1>, 1> flat;

  gather_sums(allocator& a, std::span<index_t const> rows_of, int rank, kv_views<T> const& widest) : rows(rows_of) {
    index_t total = 0, per_row = widest.k.extent(1) * (widest.k.extent(2) + widest.v.extent(2));
    for (index_t n : rows) total += n;
    all = owned<A, 1>(a, {total * per_row});
    mine = owned<A, 1>(a, {rows[std::size_t(rank)] * per_row});
    by_rank = owned<key_grad<T>, 1>(a, {index_t(rows.size())});
    flat = owned<view<A, 1>, 1>(a, {index_t(rows.size())});
  }
  /// dk and dv of n rows that start at `at`.
  static key_grad<T> split(A* at, index_t n, kv_views<T> const& like) {
    view<A, 3> dk(at, {n, like.k.extent(1), like.k.extent(2)});
    return {like.k, like.v, dk, view<A, 3>(at + dk.elements(), {n, like.v.extent(1), like.v.extent(2)})};
  }
  /// Zeroed gradients beside everybody's gathered keys.
  std::span<key_grad<T> const> begin(std::span<kv_views<T> const> keys) {
    fill(all.tensor, A{});
    A* at = all.tensor.data;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      auto const& g = by_rank.tensor(index_t(r)) = split(at, rows[r], keys[r]);
      flat.tensor(index_t(r)) = view<A, 1>(at, {g.dk.elements() + g.dv.elements()});
      at += flat.tensor(index_t(r)).extent(0);
    }
    return {by_rank.tensor.data, rows.size()};
  }
};

/// Everybody sees everybody's keys.
struct gather_schedule : runs_anywhere {
  static constexpr schedule how = schedule::gather;
  static constexpr char const* name = "gather";

  template <class Backend>
  static void prepare(Backend const& backend, ring_geometry<Backend>& g, ring_layouts const& l) {
    g.steps.push_back(backend.prepare({l.queries(), table_of(l.k), l.mask}));
  }

  template <class T, class Comm, class Backend, class SavedList>
  static void forward(ring_call<Comm, Backend> const& c, view<T const, 3> q, kv_views<T> own, attention_state<T> state,
                      SavedList& by_backend) {
    heads const on = c.numbers.heads;
    gather_buffers<T, Comm> buffers(c.comm, c.scratch, std::span(c.geometry.key_rows), on, c.head_chunks, own);
    for_each_gathered(
        "ring.forward.gather", buffers, on, own, [&](head_chunk const& p, std::span<kv_views<T> const> all, index_t) {
          call_params numbers = c.numbers;
          numbers.heads = p.on;
          attention_state<T> s{p.queries(state.out), p.queries(state.lse)};
          by_backend.push(c.backend.template forward<T>(c.geometry.steps[0], c.scratch, numbers, p.queries(q), all, s));
        });
  }

  /// dk and dv of everybody's rows are summed in rank order by their owners.
  template <class T, class Comm, class Backend, class SavedList>
  static void backward(ring_call<Comm, Backend> const& c, query_grad<T> const& qg, key_grad<T> const& own,
                       SavedList const& by_backend) {
    using A = accumulate_t<T>;
    auto const& g = c.geometry;
    heads const on = c.numbers.heads;
    kv_views<T> own_keys{own.k, own.v};
    gather_buffers<T, Comm> buffers(c.comm, c.scratch, std::span(g.key_rows), on, c.head_chunks, own_keys);
    gather_sums<T> sums(c.scratch, g.key_rows, g.rank, buffers.widest);
    for_each_gathered(
        "ring.backward.gather", buffers, on, own_keys, [&](head_chunk const& p, std::span<kv_views<T> const> all, index_t i) {
          call_params numbers = c.numbers;
          numbers.heads = p.on;
          query_grad<T> queries{p.queries(qg.q),   p.queries(qg.out),   p.queries(qg.dout),
                                p.queries(qg.lse), p.queries(qg.delta), p.queries(qg.dq)};
          c.backend.template backward<T>(g.steps[0], c.scratch, numbers, std::span<query_grad<T> const>(&queries, 1),
                                         sums.begin(all), by_backend.at(int(i)));
          view<A, 1> mine = sums.mine.tensor.rows(0, sums.flat.tensor(g.rank).extent(0));
          sp::reduce_scatter(c.comm, {sums.flat.tensor.data, std::size_t(g.size)}, mine, c.scratch,
                             "ring.backward.reduce_scatter");
          key_grad<T> found = sums.split(mine.data, g.rows_of(g.rank), all[std::size_t(g.rank)]);
          add(p.keys(own.dk), found.dk);
          add(p.keys(own.dv), found.dv);
        });
  }

  template <class T, class Comm, class Backend>
  static void take_scratch(ring_call<Comm, Backend> const& c, kv_views<T> const& own) {
    auto const& g = c.geometry;
    gather_buffers<T, Comm> buffers(c.comm, c.scratch, std::span(g.key_rows), c.numbers.heads, c.head_chunks, own);
    gather_sums<T> sums(c.scratch, g.key_rows, g.rank, buffers.widest);
    reduce_scatter_memory<accumulate_t<T>>(c.scratch, sums.mine.tensor.extent(0), g.size);
    owned<parcel, 1>(c.scratch, {2 * g.size}); // two gathers in flight
  }
};

} // namespace sp::detail
