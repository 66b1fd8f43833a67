// The four calls of a kernel of linear attention over all heads of a segment: heads are tasks, each thread has tiles of its own.
// Backwards the value heads of one key head are one task, in order: sums do not depend on the number of threads.
#pragma once

#include <sp/linear/cpu/walk_back.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// The tiles of a thread that carries a state forwards.
template <class A>
struct state_tiles {
  chunk_tiles<A> chunk;
  matrix<A> state; ///< (dim, columns)
  A* passed;       ///< (dim): decay since the segment's begin

  state_tiles(tile_carver<A>& at, chunk_extents const& x, map_form form)
      : chunk(at, x, form), state(at.tile(x.dim, x.columns)), passed(at.numbers(x.dim)) {}
};

/// The calls for one head, in memory that a thread lends: numbers of A, as many as the call's `_room` says.
template <class A>
struct linear_head_calls {
  linear_inputs<A> in;
  linear_settings set;

  linear_shape const& shape() const { return in.shape; }

  /// Extents of tiles; `dense`: M is computed beside B.
  chunk_extents extents(bool dense = false) const {
    constexpr index_t n = micro_columns<A>;
    linear_shape const& s = in.shape;
    index_t const values = round_up(s.value_dim, n);
    return {min(set.chunk, max(s.rows, 1)), s.key_dim, s.value_dim,
            round_up(s.key_dim, n),         values,    values + (dense ? round_up(s.key_dim, n) : 0)};
  }
  index_t state_room(bool dense) const {
    tile_carver<A> count;
    state_tiles<A>(count, extents(dense), in.form);
    return count.used;
  }
  index_t back_room() const {
    tile_carver<A> count;
    back_tiles<A>(count, extents(), in.form, set.block);
    return count.used;
  }

  void reduce(index_t head, A* memory, view<A, 2> const& m, view<A, 3> const& b) const {
    bool const dense = in.form == map_form::dense && m.data;
    tile_carver<A> at{memory};
    state_tiles<A> x(at, extents(dense), in.form);
    chunk_tiles<A>& t = x.chunk;
    load_state(view<A const, 3>{}, head, t.dim, t.columns, x.state);
    if (dense)
      for (index_t d = 0; d < t.key_dim; ++d) x.state.row(d)[t.values + d] = 1;
    std::fill(x.passed, x.passed + t.dim, A(1));
    linear_walk<A>{in, set, t, head}.forward(x.state, {}, {}, x.passed);
    store_state(x.state, b, head);
    for (index_t d = 0, dim = t.key_dim; m.data && d < m.extent(1); ++d)
      m(head, d) = dense ? x.state.row(d / dim)[t.values + d % dim] : x.passed[d];
  }

  /// out, leaving and kept may be null.
  void forward(index_t head, A* memory, view<A const, 3> const& entering, row_writer<A> const& out, view<A, 3> const& leaving,
               view<A, 4> const& kept) const {
    tile_carver<A> at{memory};
    state_tiles<A> x(at, extents(), in.form);
    load_state(entering, head, x.chunk.dim, x.chunk.columns, x.state);
    linear_walk<A>{in, set, x.chunk, head}.forward(x.state, out, kept, nullptr);
    store_state(x.state, leaving, head);
  }

  /// All value heads of a key head.
  void backward(index_t k_head, A* memory, view<A const, 3> const& entering, view<A const, 4> const& kept,
                linear_row_grads<A> const& grad) const {
    tile_carver<A> at{memory};
    back_tiles<A> x(at, extents(), in.form, set.block);
    index_t const each = in.shape.v_heads / in.shape.k_heads;
    for (index_t h = k_head * each; h < (k_head + 1) * each; ++h)
      linear_walk_back<A>{in, set, x, h}.backward(entering, kept, grad);
  }

  void backward_reduce(index_t head, A* memory, row_reader<A> const& dout, view<A, 3> const& entering) const {
    tile_carver<A> at{memory};
    back_tiles<A> x(at, extents(), in.form, set.block);
    linear_walk_back<A>{in, set, x, head}.reduce(dout, entering);
  }
};

/// task(i, memory) for each i < n on the threads of the queue, or one after the other where it hands out no tasks. A thread's memory is
/// `room` numbers.
template <class A, class Q, class Task>
void on_tiles(Q const& queue, allocator& scratch, index_t n, index_t room, Task const& task) {
  auto run = [&](auto const& tasks) {
    owned<A, 2> memory(scratch, {tasks.threads(), room});
    tasks.parallel(n, [&](index_t i, int thread) { task(i, &memory.tensor(thread, 0)); });
  };
  if constexpr (task_queue<Q>)
    run(queue);
  else
    run(inline_queue{});
}
template <class A, class Q>
index_t tile_bytes([[maybe_unused]] Q const& queue, index_t room) {
  index_t threads = 1;
  if constexpr (task_queue<Q>) threads = queue.threads();
  byte_counter bytes;
  owned<A, 2>(bytes, {threads, room});
  return bytes.bytes();
}

} // namespace SP_CPU_TARGET
} // namespace sp::detail
