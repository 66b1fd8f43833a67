// The pull schedule: one pass over everybody's keys where they lie, for ranks that share memory. Nothing is sent.
// Keys and queries are visited in document order, so all results do not depend on the number of ranks.
#pragma once

#include <sp/attention/ring/geometry.hpp>

namespace sp::detail {

/// A published tensor as this rank's own looks like, with the peer's rows; short_message if it does not.
template <class E, int R, class M>
view<E, R, M> pulled(std::span<piece const> from, std::size_t i, int peer, index_t rows, view<E, R, M> const& own) {
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
  return as_view<E, R, M>(from[i]);
}

/// What this rank shows to all others while it lives until release(): as its queue's earlier work wrote it, and for their queues to read.
/// After an exception, too, what this rank's queue was given has read the tensors of others before they are told that it is done.
template <class Call>
class shown {
public:
  shown(Call const& c, char const* primitive, std::span<piece const> mine)
      : call_(c), primitive_(primitive),
        published_((finish_before_sending(c.comm, c.ctx.queue, primitive), c.comm.publish(primitive, mine))) {}
  shown(shown const&) = delete;
  ~shown() {
    if (released_) return;
    try {
      finish_before_sending(call_.comm, call_.ctx.queue, primitive_);
    } catch (...) { // a queue that fails reads no more; the exception under way tells why
    }
  }
  std::span<piece const> of(int rank) const { return published_.of(rank); }
  void release() {
    finish_before_sending(call_.comm, call_.ctx.queue, primitive_); // what reads the tensors of others
    released_ = true;
    published_.release();
  }

private:
  using comm = typename Call::communicator_type;
  Call const& call_;
  char const* primitive_;
  decltype(std::declval<comm const&>().publish("", std::span<piece const>())) published_;
  bool released_ = false;
};

/// Everybody's tensors, in the order of ranks.
template <class T, class M>
struct pull_backward_lists {
  owned<key_grad<T, M>, 1> keys;
  owned<query_grad<T, M>, 1> rows;
  pull_backward_lists(allocator& a, int size) : keys(a, {size}), rows(a, {size}) {}
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

  template <class Planner, class Backend>
  static void prepare(Planner const& plans, ring_geometry<Backend>& g, ring_layouts const& l) {
    g.add_step(plans, {l.queries(), table_of(l.k), l.mask});
    g.set_keys(plans, {table_of(l.q), place(l.k.runs(l.part)), l.mask});
  }

  template <class T, class Call, class M, class SavedList>
  static void forward(Call const& c, view<T const, 3, M> q, kv_views<T, M> own, attention_state<T, M> state,
                      SavedList& by_backend) {
    auto const& g = c.geometry;
    owned<kv_views<T, M>, 1> everybody(*c.ctx.lists, {g.size});
    piece mine[] = {as_piece(own.k), as_piece(own.v)};
    shown<Call> published(c, "ring.forward.publish", mine);
    for (int r = 0; r < g.size; ++r) {
      std::span<piece const> p = published.of(r);
      everybody.tensor(r) = {pulled(p, 0, r, g.rows_of(r), own.k), pulled(p, 1, r, g.rows_of(r), own.v)};
    }
    std::span<kv_views<T, M> const> keys(everybody.tensor.data, std::size_t(g.size));
    by_backend.push(c.template forward<T>(g.steps[0], c.numbers, q, keys, state));
    published.release();
  }

  /// Two reads, no writes to peers: dq of my rows from everybody's keys; dk, dv of my keys from everybody's rows.
  template <class T, class Call, class M, class SavedList>
  static void backward(Call const& c, query_grad<T, M> const& queries, key_grad<T, M> const& own, SavedList const& by_backend) {
    auto const& g = c.geometry;
    pull_backward_lists<T, M> here(*c.ctx.lists, g.size);
    auto& keys = here.keys;
    auto& rows = here.rows;
    piece mine[] = {as_piece(own.k),        as_piece(own.v),       as_piece(queries.q),    as_piece(queries.out),
                    as_piece(queries.dout), as_piece(queries.lse), as_piece(queries.delta)};
    shown<Call> published(c, "ring.backward.publish", mine);
    for (int r = 0; r < g.size; ++r) {
      std::span<piece const> p = published.of(r);
      index_t n_keys = g.rows_of(r), n_rows = g.query_rows[std::size_t(r)];
      keys.tensor(r) = {pulled(p, 0, r, n_keys, own.k), pulled(p, 1, r, n_keys, own.v), {}, {}};
      rows.tensor(r) = {pulled(p, 2, r, n_rows, queries.q),     pulled(p, 3, r, n_rows, queries.out),
                        pulled(p, 4, r, n_rows, queries.dout),  pulled(p, 5, r, n_rows, queries.lse),
                        pulled(p, 6, r, n_rows, queries.delta), {}};
    }
    std::span<key_grad<T, M> const> all_keys(keys.tensor.data, std::size_t(g.size)), own_keys(&own, 1);
    std::span<query_grad<T, M> const> all_rows(rows.tensor.data, std::size_t(g.size)), own_rows(&queries, 1);
    c.template backward<T>(g.steps[0], c.numbers, own_rows, all_keys, by_backend.at(0));
    c.template backward<T>(*g.keys, c.numbers, all_rows, own_keys, by_backend.at(0));
    published.release();
  }

  template <class T, class Call, class M>
  static void take_scratch(Call const& c, kv_views<T, M> const&) {
    pull_backward_lists<T, M>(*c.ctx.lists, c.geometry.size);
  }
};

} // namespace sp::detail
