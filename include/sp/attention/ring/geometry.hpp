// What a ring prepared for one batch, what a schedule is called with, and the key buffers that schedules share.
// Plain data; a schedule is a struct in a file of its own, and schedules.hpp lists them.
#pragma once

#include <optional>

#include <sp/attention/call/options.hpp>
#include <sp/attention/ring/held_keys.hpp>
#include <sp/attention/row_arithmetic.hpp>
#include <sp/backend/concepts.hpp>
#include <sp/collective/operations.hpp>
#include <sp/collective/parcels.hpp>

namespace sp::detail {

/// What a ring prepared for one batch, one per rank.
template <class Backend>
struct ring_geometry {
  int rank = 0, size = 1;
  sp::schedule how = schedule::rotate;
  index_t q_rows = 0;
  std::vector<index_t> key_rows, query_rows; ///< of every rank
  std::vector<typename Backend::plan>
      steps; ///< rotate: step s meets the keys of rank (rank - s) mod size; else one table of keys
  std::optional<typename Backend::plan> keys; ///< pull, backward: everybody's queries against this rank's keys
  held_keys held;                             ///< cast

  int source(int step) const { return (rank - step + size) % size; }
  index_t rows_of(int r) const { return key_rows[std::size_t(r)]; }
  index_t widest() const {
    index_t n = 0;
    for (int r = 0; r < size; ++r)
      if (r != rank) n = max(n, rows_of(r));
    return n;
  }
};

/// Who owns what, and who may see whom: what a schedule prepares its plans from.
struct ring_layouts {
  layout const &q, &k;
  int part;
  std::vector<slice> const& mask;

  std::vector<placed_run> queries() const { return place(q.runs(part)); }
};

/// A kernel on the queue of a call, with the interface of a kernel on the caller's thread.
template <class Queue, class Backend>
struct queued_backend {
  using backend_type = Backend;
  using plan = typename Backend::plan;
  using saved = typename Backend::saved;
  Queue const& queue;
  Backend const& backend;

  template <class T>
  saved forward(plan const& p, allocator& scratch, call_params const& n, view<T const, 3> q, std::span<kv_views<T> const> keys,
                attention_state<T> state) const {
    return forward_on<T>(queue, backend, p, scratch, n, q, keys, state);
  }
  template <class T>
  void backward(plan const& p, allocator& scratch, call_params const& n, std::span<query_grad<T> const> queries,
                std::span<key_grad<T> const> keys, saved const& s) const {
    backward_on<T>(queue, backend, p, scratch, n, queries, keys, s);
  }
};

/// A call as its schedule sees it. Backend: a queued_backend.
template <class Comm, class Backend>
struct ring_call {
  Comm const& comm;
  Backend backend;
  ring_geometry<typename Backend::backend_type> const& geometry;
  allocator& scratch;
  call_params numbers;
  index_t head_chunks;
};

/// A schedule that any communicator and kernel can run. One that needs more says what they lack.
struct runs_anywhere {
  template <class Comm, class Backend>
  static constexpr char const* missing = nullptr;
};

/// Keys and values with heads and dims of a call, in memory of their own.
template <class T, class E>
struct key_buffer {
  owned<E, 3> k, v; // (rows, kv heads, dim), (rows, kv heads, value dim)
  key_buffer() = default;
  key_buffer(allocator& a, index_t rows, kv_views<T> const& like)
      : k(a, {rows, like.k.extent(1), like.k.extent(2)}), v(a, {rows, like.v.extent(1), like.v.extent(2)}) {}
  view<E, 3> k_rows(index_t n) const { return k.tensor.rows(0, n); }
  view<E, 3> v_rows(index_t n) const { return v.tensor.rows(0, n); }
};

} // namespace sp::detail
