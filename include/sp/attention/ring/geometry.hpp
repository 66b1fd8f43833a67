// What a ring prepared for one batch, what a schedule is called with, and the key buffers that schedules share.
// Plain data; a schedule is a struct in a file of its own, and schedules.hpp lists them.
#pragma once

#include <optional>

#include <sp/attention/call/options.hpp>
#include <sp/attention/ring/held_keys.hpp>
#include <sp/attention/ring/passed_queries.hpp>
#include <sp/attention/row_arithmetic.hpp>
#include <sp/backend/concepts.hpp>
#include <sp/collective/operations.hpp>
#include <sp/collective/parcels.hpp>
#include <sp/layout/landing_table.hpp>

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
  passed_queries passed{};                    ///< pass_q
  landing_table<typename Backend::memory_type>
      readers{}; ///< cast: who finds gradients for which own row, if prepared in a context

  /// What is prepared in place of what another batch left, whose plans are rewritten; of another schedule, which a refresh that failed
  /// may have left, nothing stays.
  void begin(int my_rank, int ranks, sp::schedule chosen, index_t rows) {
    if (how != chosen || size != ranks) {
      steps.clear();
      keys.reset();
      held = {}, passed = {}, readers = {};
    }
    rank = my_rank, size = ranks, how = chosen, q_rows = rows, planned_ = 0;
    key_rows.clear();
    query_rows.clear();
  }
  template <class Planner>
  void add_step(Planner const& plans, problem const& p) {
    if (planned_ < steps.size())
      plans.refresh(steps[planned_], p);
    else
      steps.push_back(plans.prepare(p));
    ++planned_;
  }
  template <class Planner>
  void set_keys(Planner const& plans, problem const& p) {
    if (keys)
      plans.refresh(*keys, p);
    else
      keys.emplace(plans.prepare(p));
  }

  int source(int step) const { return (rank - step + size) % size; }
  index_t rows_of(int r) const { return key_rows[std::size_t(r)]; }
  index_t widest() const {
    index_t n = 0;
    for (int r = 0; r < size; ++r)
      if (r != rank) n = max(n, rows_of(r));
    return n;
  }

private:
  std::size_t planned_ = 0;
};

/// Who owns what, and who may see whom: what a schedule prepares its plans from.
struct ring_layouts {
  layout const &q, &k;
  int part;
  std::vector<slice> const& mask;

  std::vector<placed_run> queries() const { return place(q.runs(part)); }
};

/// A call as its schedule sees it: whom it exchanges keys with, on which queue it runs, and where its memory comes from.
template <class Comm, class Backend, class Queue>
struct ring_call {
  using communicator_type = Comm;
  using backend_type = Backend;
  using queue_type = Queue;
  using memory_type = typename Queue::memory_type;
  Comm const& comm;
  Backend const& backend;
  ring_geometry<Backend> const& geometry;
  context<Queue> const& ctx;
  call_params numbers;
  index_t head_chunks;

  /// The kernel on the queue of the call; `n` are the numbers of a chunk of heads.
  template <class T>
  typename Backend::saved forward(typename Backend::plan const& plan, call_params const& n, view_on<Queue, T const, 3> q,
                                  std::span<kv_views<T, memory_type> const> keys, attention_state<T, memory_type> state) const {
    return forward_on<T>(ctx.queue, backend, plan, *ctx.scratch, n, q, keys, state);
  }
  template <class T>
  void backward(typename Backend::plan const& plan, call_params const& n, std::span<query_grad<T, memory_type> const> queries,
                std::span<key_grad<T, memory_type> const> keys, typename Backend::saved const& s) const {
    backward_on<T>(ctx.queue, backend, plan, *ctx.scratch, n, queries, keys, s);
  }
};

/// What an exchange of a call is waited for by.
template <class Call>
using exchange_token = decltype(sp::exchange(std::declval<typename Call::communicator_type const&>(),
                                             std::declval<traffic const&>(), std::declval<typename Call::queue_type const&>()));

/// A schedule that any communicator and kernel can run. One that needs more says what they lack.
struct runs_anywhere {
  template <class Comm, class Backend>
  static constexpr char const* missing = nullptr;
};

/// Keys and values with heads and dims of a call, in memory of their own.
template <class E, class M>
struct key_buffer {
  owned<E, 3, M> k, v; // (rows, kv heads, dim), (rows, kv heads, value dim)
  key_buffer() = default;
  template <class T>
  key_buffer(basic_allocator<M>& a, index_t rows, kv_views<T, M> const& like)
      : k(a, {rows, like.k.extent(1), like.k.extent(2)}), v(a, {rows, like.v.extent(1), like.v.extent(2)}) {}
  view<E, 3, M> k_rows(index_t n) const { return k.tensor.rows(0, n); }
  view<E, 3, M> v_rows(index_t n) const { return v.tensor.rows(0, n); }
};

} // namespace sp::detail
