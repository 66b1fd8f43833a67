// The walk backwards: gradients of one value head, chunk after chunk from the last, carrying the gradient of the state.
// A block of chunks is replayed from the state before it; then each chunk is pulled back with the state that it read.
#pragma once

#include <sp/linear/cpu/walk.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// What a thread's backward pass works in.
template <class A>
struct back_tiles {
  chunk_tiles<A> chunk;
  chunk_grads<A> grads;
  matrix<A> dstate;             ///< (dim, values)
  std::array<matrix<A>, 2> all; ///< states and errors of a block, one chunk below the other
  index_t dim, tokens;

  back_tiles(tile_carver<A>& at, chunk_extents const& x, map_form form, index_t block)
      : chunk(at, x, form), grads(at, x, form), dstate(at.tile(x.dim, x.values)), dim(x.dim),
        tokens(round_up(x.chunk, micro_rows)) {
    all[0] = at.tile(block * dim, x.values);
    all[1] = form == map_form::dense ? at.tile(block * tokens, x.values) : all[0];
  }
  matrix<A> state(index_t c) const { return {all[0].row(c * dim), all[0].stride}; }
  matrix<A> errors(index_t c) const { return {all[1].row(c * tokens), all[1].stride}; }
};

template <class T, map_form Form>
struct linear_walk_back {
  using walk = linear_walk<T, Form>;
  using A = typename walk::A;
  using V = simd<A>;
  static constexpr bool delta = walk::delta;

  typename walk::call_type const& call;
  linear_settings const& set;
  back_tiles<A>& b;
  index_t head;

  chunk_tiles<A>& t = b.chunk;
  chunk_grads<A>& d = b.grads;
  walk forwards{call, set, t, head};

  using grad_type = linear_grad<T, walk::gates>;

  /// All gradients of the head; kept are the states before all blocks but the first.
  void backward(view<A const, 3> const& entering, view<A const, 4> const& kept, grad_type const& grad) {
    index_t const rows = call.k.extent(0), block = set.block * t.chunk;
    load_state(grad.dleaving, head, t.dim, t.values, b.dstate);
    matrix<A> const own = t.y;
    for (index_t k = ceil_div(rows, block); k-- > 0;) {
      index_t const begin = k * block, chunks = ceil_div(min(block, rows - begin), t.chunk);
      load_state(k == 0 ? entering : walk::states_of(kept, k - 1), head, t.dim, t.values, b.state(0));
      replay(begin, chunks);
      for (index_t c = chunks; c-- > 0;) pull(begin + c * t.chunk, c, c + 1 == chunks, grad);
    }
    t.y = own;
    store_state(b.dstate, grad.dentering, head);
  }

  /// The gradient of the state before the segment, with none behind it.
  void reduce(view<T const, 3> const& dout, view<A, 3> const& entering) {
    load_state(view<A const, 3>{}, head, t.dim, t.values, b.dstate);
    for (index_t c = ceil_div(call.k.extent(0), t.chunk); c-- > 0;) {
      forwards.load(c * t.chunk, true);
      pull_outputs(c * t.chunk, dout);
      if constexpr (delta) {
        solve_back();
        scale_rows(d.du, t.beta, A(-1), t.rows, t.values, d.du);
      }
      pull_state();
    }
    store_state(b.dstate, entering, head);
  }

private:
  /// The states before the chunks of a block, and what errors they were left with. The last chunk stays loaded.
  void replay(index_t begin, index_t chunks) {
    for (index_t c = 0; c < chunks; ++c) {
      bool const last = c + 1 == chunks;
      forwards.load(begin + c * t.chunk, last);
      if constexpr (delta) {
        t.y = b.errors(c);
        forwards.errors(begin + c * t.chunk, b.state(c));
      } else if (!last) {
        forwards.writes(begin + c * t.chunk, b.state(c));
      }
      if (last) break;
      matrix<A> const from = b.state(c), to = b.state(c + 1);
      std::copy(from.data, from.data + t.dim * from.stride, to.data);
      forwards.advance(to);
    }
  }

  void pull(index_t first, index_t c, bool loaded, grad_type const& grad) {
    if (!loaded) forwards.load(first, true);
    if constexpr (delta) {
      t.y = b.errors(c);
      scale_rows(t.y, t.beta, A(1), t.rows, t.values, t.u);
    } else {
      load_rows(head_rows<T const>(call.v, first, head), t.n, t.rows, t.values, t.y);
    }
    transpose(t.u, t.rows, t.values, d.ut, t.cols);
    pull_outputs(first, grad.dout);
    transpose(d.dout, t.rows, t.values, d.doutt, t.cols);
    lower_scores(plain(d.dout), d.ut, t.rows, t.value_dim, d.dp);
    product(term<A>{plain(b.state(c)), d.doutt, t.value_dim}, t.dim, t.cols, d.dqst);
    product(term<A>{plain(b.dstate), d.ut, t.value_dim}, t.dim, t.cols, d.dket);
    matrix<A> const state = b.state(c);
    for (index_t x = 0; x < t.dim; ++x) d.total[x] = t.total[x] * dot(state.row(x), b.dstate.row(x), t.values);
    if constexpr (delta) pull_errors(state);
    add_rows<delta>(d.du, t.n, head_rows<A>(grad.dv, first, head));
    pull_state();
    typename walk::decays{t, A(set.scale)}.pull(d, {true, delta});
    add(first, grad);
  }

  /// du: the gradient of what the chunk writes, from its outputs and from the state behind it.
  void pull_outputs(index_t first, view<T const, 3> const& dout) {
    load_rows(head_rows<T const>(dout, first, head), t.n, t.rows, t.values, d.dout);
    product(term<A>{plain(t.writes), b.dstate, t.key_dim}, {transposed(t.p), d.dout, t.rows, triangle::upper}, t.rows, t.values,
            d.du);
  }

  /// The gradient of the state before the chunk; of the delta rule du is that of v, negative.
  void pull_state() {
    term<A> const read{transposed(t.reads), d.dout, t.rows};
    term<A> looked_up{};
    if constexpr (delta) {
      scale_rows(d.du, t.begin, A(1), t.rows, t.values, d.du);
      looked_up = {transposed(t.k), d.du, t.rows};
    }
    product(read, looked_up, t.dim, t.values, b.dstate, {update::rescale, t.total});
  }

  /// du becomes the gradient of beta times the right-hand side of the solve.
  void solve_back() {
    scale_lower(t.l, t.beta, A(-1), t.rows, t.solved);
    solve_transposed(t.solved, t.rows, t.values, d.du);
  }

  /// Gradients of beta, of k.k and of k as it looks up the state; du becomes the gradient of v, negative.
  void pull_errors(matrix<A> state) {
    solve_back();
    for (index_t i = 0; i < t.rows; ++i) d.beta[i] = dot(d.du.row(i), t.y.row(i), t.values);
    scale_rows(d.du, t.beta, A(-1), t.rows, t.values, d.du);
    transpose(d.du, t.rows, t.values, d.dyt, t.cols);
    lower_scores(plain(d.du), d.ut, t.rows, t.value_dim, d.dl);
    product(term<A>{plain(state), d.dyt, t.value_dim}, t.dim, t.cols, d.dkct);
  }

  /// Gradients of rows, where they are wanted.
  void add(index_t first, grad_type const& grad) {
    if (set.normalise) {
      pull_normalised(t.q, t.q_norm, t.rows, t.dim, d.dq);
      pull_normalised(t.k, t.k_norm, t.rows, t.dim, d.dk);
    }
    add_rows(d.dq, t.n, head_rows<A>(grad.dq, first, forwards.key_head()));
    add_rows(d.dk, t.n, head_rows<A>(grad.dk, first, forwards.key_head()));
    if constexpr (walk::gates > 0) {
      head_rows<A> const g(grad.dgates[0], first, head);
      if constexpr (Form == map_form::diagonal)
        add_rows(d.dg, t.n, g);
      else
        add_numbers(d.g, g);
    }
    if constexpr (delta) add_numbers(d.beta, head_rows<A>(grad.dgates[1], first, head));
  }
  void add_numbers(A const* from, head_rows<A> to) {
    if (!to.data) return;
    for (index_t i = 0; i < t.n; ++i) *to.row(i) += from[i];
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
