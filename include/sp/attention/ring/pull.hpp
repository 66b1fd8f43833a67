// The pull schedule: one pass over everybody's keys where they lie, for ranks that share memory. Nothing is sent.
// Keys and queries are visited in document order, so all results do not depend on the number of ranks.
#pragma once

#include <sp/attention/ring/geometry.hpp>

namespace sp::detail {

/// A published tensor as this rank's own looks like, with the peer's rows; short_message if it does not.
template <class E, int R>
view<E, R> pulled(std::span<piece const> from, std::size_t i, int peer, index_t rows,
                  std::type_identity_t<view<E, R>> const& own) {
  bool same = i < from.size() && from[i].rank == R && from[i].element == index_t(sizeof(E)) && from[i].extents[0] == rows;
  for (int d = 1; same && d < R; ++d) same = from[i].extents[std::size_t(d)] == own.extent(d);
  if (!same) {
    error_info e{errc::short_message,
                 "tensor " + std::to_string(i) + " of rank " + std::to_string(peer) +
                     " is not as expected: " + std::to_string(rows) + " rows, otherwise " + shape(own),
                 "Pass the same heads, dims and types on every rank"};
    e.peer = peer;
    fail(std::move(e));
  }
  return as_view<E, R>(from[i]);
}

template <class T>
struct pull_backward_scratch {
  owned<key_grad<T>, 1> keys;
  owned<query_grad<T>, 1> rows;
  pull_backward_scratch(allocator& a, int size) : keys(a, {size}), rows(a, {size}) {}
};

/// Nobody sends: keys, and in the backward pass queries too, are read where they lie.
struct pull_schedule {
  static constexpr schedule how = schedule::pull;
  static constexpr char const* name = "pull";
  template <class Comm, class Backend>
  static constexpr char const* missing = !peer_memory<Comm> ? "these ranks cannot read each other's memory"
                                         : !std::is_same_v<typename Backend::saved, nothing>
                                             ? "this kernel keeps state from forward, which a pull schedule cannot hand back"
                                             : nullptr;

  template <class Backend>
  static void prepare(Backend const& backend, ring_geometry<Backend>& g, ring_layouts const& l) {
    g.steps.push_back(backend.prepare({l.queries(), table_of(l.k), l.mask}));
    g.keys.emplace(backend.prepare({table_of(l.q), place(l.k.runs(l.part)), l.mask}));
  }

  template <class T, class Comm, class Backend, class SavedList>
  static void forward(ring_call<Comm, Backend> const& c, view<T const, 3> q, kv_views<T> own, attention_state<T> state,
                      SavedList& by_backend) {
    auto const& g = c.geometry;
    owned<kv_views<T>, 1> everybody(c.scratch, {g.size});
    piece mine[] = {as_piece(own.k), as_piece(own.v)};
    auto published = c.comm.publish("ring.forward.publish", mine);
    for (int r = 0; r < g.size; ++r) {
      std::span<piece const> p = published.of(r);
      everybody.tensor(r) = {pulled<T const, 3>(p, 0, r, g.rows_of(r), own.k), pulled<T const, 3>(p, 1, r, g.rows_of(r), own.v)};
    }
    std::span<kv_views<T> const> keys(everybody.tensor.data, std::size_t(g.size));
    by_backend.push(c.backend.template forward<T>(g.steps[0], c.scratch, c.numbers, q, keys, state));
    published.release();
  }

  /// Two reads, no writes to peers: dq of my rows from everybody's keys; dk, dv of my keys from everybody's rows.
  template <class T, class Comm, class Backend, class SavedList>
  static void backward(ring_call<Comm, Backend> const& c, query_grad<T> const& queries, key_grad<T> const& own,
                       SavedList const& by_backend) {
    using A = accumulate_t<T>;
    auto const& g = c.geometry;
    pull_backward_scratch<T> here(c.scratch, g.size);
    auto& keys = here.keys;
    auto& rows = here.rows;
    piece mine[] = {as_piece(own.k),        as_piece(own.v),       as_piece(queries.q),    as_piece(queries.out),
                    as_piece(queries.dout), as_piece(queries.lse), as_piece(queries.delta)};
    auto published = c.comm.publish("ring.backward.publish", mine);
    for (int r = 0; r < g.size; ++r) {
      std::span<piece const> p = published.of(r);
      index_t n_keys = g.rows_of(r), n_rows = g.query_rows[std::size_t(r)];
      keys.tensor(r) = {pulled<T const, 3>(p, 0, r, n_keys, own.k), pulled<T const, 3>(p, 1, r, n_keys, own.v), {}, {}};
      rows.tensor(r) = {pulled<T const, 3>(p, 2, r, n_rows, queries.q),     pulled<T const, 3>(p, 3, r, n_rows, queries.out),
                        pulled<T const, 3>(p, 4, r, n_rows, queries.dout),  pulled<A const, 2>(p, 5, r, n_rows, queries.lse),
                        pulled<A const, 2>(p, 6, r, n_rows, queries.delta), {}};
    }
    std::span<key_grad<T> const> all_keys(keys.tensor.data, std::size_t(g.size)), own_keys(&own, 1);
    std::span<query_grad<T> const> all_rows(rows.tensor.data, std::size_t(g.size)), own_rows(&queries, 1);
    c.backend.template backward<T>(g.steps[0], c.scratch, c.numbers, own_rows, all_keys, by_backend.at(0));
    c.backend.template backward<T>(*g.keys, c.scratch, c.numbers, all_rows, own_keys, by_backend.at(0));
    published.release();
  }

  template <class T, class Comm, class Backend>
  static void take_scratch(ring_call<Comm, Backend> const& c, kv_views<T> const&) {
    pull_backward_scratch<T>(c.scratch, c.geometry.size);
  }
};

} // namespace sp::detail
