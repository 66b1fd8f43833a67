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

/// task(i, tiles) for each i < n on the threads of the queue, or one after the other where it hands out no tasks. make(carver) makes the
/// tiles of a thread.
template <class A, class Q, class Make, class Task>
void on_tiles(Q const& queue, allocator& scratch, index_t n, Make const& make, Task const& task) {
  tile_carver<A> count;
  make(count);
  auto run = [&](auto const& tasks) {
    owned<A, 2> memory(scratch, {tasks.threads(), count.used});
    tasks.parallel(n, [&](index_t i, int thread) {
      tile_carver<A> at{&memory.tensor(thread, 0)};
      auto tiles = make(at);
      task(i, tiles);
    });
  };
  if constexpr (task_queue<Q>)
    run(queue);
  else
    run(inline_queue{});
}

template <class A, class Q, class Make>
index_t tile_bytes(Q const& queue, Make const& make) {
  tile_carver<A> count;
  make(count);
  index_t threads = 1;
  if constexpr (task_queue<Q>) threads = queue.threads();
  byte_counter bytes;
  owned<A, 2>(bytes, {threads, count.used});
  return bytes.bytes();
}

/// Extents of a shape as tiles have them; `dense`: M is computed beside B.
template <class A>
chunk_extents tile_extents(linear_shape const& s, index_t chunk, bool dense = false) {
  constexpr index_t n = micro_columns<A>;
  index_t const values = round_up(s.value_dim, n);
  return {min(chunk, max(s.rows, 1)), s.key_dim, s.value_dim,
          round_up(s.key_dim, n),     values,    values + (dense ? round_up(s.key_dim, n) : 0)};
}

template <class T, map_form Form, class Q>
struct linear_passes {
  using A = accumulate_t<T>;
  using walk = linear_walk<T, Form>;
  using walk_back = linear_walk_back<T, Form>;
  static constexpr auto nobody = [](chunk_tiles<A> const&) {};

  typename walk::call_type const& call;
  linear_settings set;
  Q const& queue;
  allocator& scratch;

  linear_shape shape() const { return call.shape(); }
  auto state_maker(bool dense) const {
    return [x = tile_extents<A>(shape(), set.chunk, dense)](tile_carver<A>& at) { return state_tiles<A>(at, x, Form); };
  }
  auto back_maker() const {
    return [x = tile_extents<A>(shape(), set.chunk), n = set.block](tile_carver<A>& at) { return back_tiles<A>(at, x, Form, n); };
  }

  void reduce(linear_map<T> const& map) const {
    bool const dense = Form == map_form::dense && map.m.data;
    on_tiles<A>(queue, scratch, shape().v_heads, state_maker(dense), [&](index_t head, state_tiles<A>& x) {
      chunk_tiles<A>& t = x.chunk;
      load_state(view<A const, 3>{}, head, t.dim, t.columns, x.state);
      if (dense)
        for (index_t d = 0; d < t.key_dim; ++d) x.state.row(d)[t.values + d] = 1;
      std::fill(x.passed, x.passed + t.dim, A(1));
      walk{call, set, t, head}.forward(x.state, view<T, 3>{}, view<A, 4>{}, [&](chunk_tiles<A> const& chunk) {
        for (index_t d = 0; d < t.key_dim; ++d) {
          A const all = x.passed[d] * chunk.total[d];
          x.passed[d] = all < std::numeric_limits<A>::min() ? A(0) : all;
        }
      });
      store_state(x.state, map.b, head);
      if (map.m.data) store_map(x, map.m, head);
    });
  }

  /// out, leaving and kept may be null.
  void forward(view<A const, 3> const& entering, view<T, 3> const& out, view<A, 3> const& leaving, view<A, 4> const& kept) const {
    on_tiles<A>(queue, scratch, shape().v_heads, state_maker(false), [&](index_t head, state_tiles<A>& x) {
      load_state(entering, head, x.chunk.dim, x.chunk.columns, x.state);
      walk{call, set, x.chunk, head}.forward(x.state, out, kept, nobody);
      store_state(x.state, leaving, head);
    });
  }

  void backward(view<A const, 3> const& entering, view<A const, 4> const& kept, typename walk_back::grad_type const& grad) const {
    index_t const heads = shape().k_heads, each = heads > 0 ? shape().v_heads / heads : 0;
    on_tiles<A>(queue, scratch, heads, back_maker(), [&](index_t k_head, back_tiles<A>& x) {
      for (index_t h = k_head * each; h < (k_head + 1) * each; ++h) walk_back{call, set, x, h}.backward(entering, kept, grad);
    });
  }

  void backward_reduce(view<T const, 3> const& dout, view<A, 3> const& entering) const {
    on_tiles<A>(queue, scratch, shape().v_heads, back_maker(), [&](index_t head, back_tiles<A>& x) {
      walk_back{call, set, x, head}.reduce(dout, entering);
    });
  }

private:
  void store_map(state_tiles<A> const& x, view<A, 2> const& m, index_t head) const {
    index_t const dim = x.chunk.key_dim;
    for (index_t d = 0; d < m.extent(1); ++d)
      m(head, d) = Form == map_form::dense ? x.state.row(d / dim)[x.chunk.values + d % dim] : x.passed[d];
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
