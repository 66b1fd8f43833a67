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

/// The gradients of a call without the type of its elements.
template <class A>
struct linear_row_grads {
  row_reader<A> dout{};
  view<A const, 3> dleaving{};
  view<A, 3> dq{}, dk{}, dv{}, dentering{};
  std::array<view<A, 3>, 2> dgates{};

  linear_row_grads() = default;
  template <class T, int Gates>
  explicit linear_row_grads(linear_grad<T, Gates> const& g)
      : dout(g.dout), dleaving(g.dleaving), dq(g.dq), dk(g.dk), dv(g.dv), dentering(g.dentering) {
    std::copy(g.dgates.begin(), g.dgates.end(), dgates.begin());
  }
};

template <class A>
struct linear_walk_back {
  using walk = linear_walk<A>;
  using V = simd<A>;

  linear_inputs<A> const& in;
  linear_settings const& set;
  back_tiles<A>& b;
  index_t head;

  chunk_tiles<A>& t = b.chunk;
  chunk_grads<A>& d = b.grads;
  walk forwards{in, set, t, head};

  /// All gradients of the head; kept are the states before all blocks but the first.
  void backward(view<A const, 3> const& entering, view<A const, 4> const& kept, linear_row_grads<A> const& grad) {
    index_t const rows = in.shape.rows, block = set.block * t.chunk;
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
  void reduce(row_reader<A> const& dout, view<A, 3> const& entering) {
    load_state(view<A const, 3>{}, head, t.dim, t.values, b.dstate);
    for (index_t c = ceil_div(in.shape.rows, t.chunk); c-- > 0;) {
      forwards.load(c * t.chunk, true);
      load_rows(dout, c * t.chunk, head, t.n, t.rows, t.values, d.dout);
      pull_state();
    }
    store_state(b.dstate, entering, head);
  }

private:
  bool delta() const { return forwards.delta(); }

  /// The states before the chunks of a block, and what errors they were left with. The last chunk stays loaded.
  void replay(index_t begin, index_t chunks) {
    for (index_t c = 0; c < chunks; ++c) {
      bool const last = c + 1 == chunks;
      forwards.load(begin + c * t.chunk, last);
      if (delta()) t.y = b.errors(c);
      if (delta() || !last) forwards.load_values(begin + c * t.chunk, t.y);
      if (delta()) scale_lower_columns(t.l, t.beta, A(-1), t.rows, t.solved);
      each_panel<A>(t.values, [&](index_t x, index_t width) {
        if (delta()) forwards.errors(b.state(c), x, width);
        if (!last) forwards.advance(b.state(c), b.state(c + 1), x, width);
      });
    }
  }

  void pull(index_t first, index_t c, bool loaded, linear_row_grads<A> const& grad) {
    if (!loaded) forwards.load(first, true);
    if (delta()) {
      t.y = b.errors(c);
      scale_rows(t.y, t.beta, A(1), t.rows, t.values, t.u);
    } else {
      forwards.load_values(first, t.u);
    }
    load_rows(grad.dout, first, head, t.n, t.rows, t.values, d.dout);
    transpose(t.u, t.rows, t.values, d.ut, t.cols);
    transpose(d.dout, t.rows, t.values, d.doutt, t.cols);
    lower_scores(plain(d.dout), d.ut, t.rows, t.value_dim, d.dp);
    matrix<A> const state = b.state(c);
    product(term<A>{plain(state), d.doutt, t.value_dim}, t.dim, t.cols, d.dqst);
    product(term<A>{plain(b.dstate), d.ut, t.value_dim}, t.dim, t.cols, d.dket);
    for (index_t x = 0; x < t.dim; ++x) d.total[x] = t.total[x] * dot(state.row(x), b.dstate.row(x), t.values);
    pull_state();
    if (delta()) pull_errors(state);
    add_rows(d.du, t.n, head_rows<A>(grad.dv, first, head));
    if (in.form == map_form::diagonal)
      diagonal_decays<A>{t, A(set.scale)}.pull(d);
    else
      scalar_decays<A>{t, A(set.scale)}.pull(d, delta());
    add(first, grad);
  }

  /// du: the gradient of what the chunk writes, from its outputs and from the state behind it; of the delta rule, of what is solved for.
  /// And the gradient of the state before the chunk.
  void pull_state() {
    if (delta()) scale_lower(t.l, t.beta, A(-1), t.rows, t.solved);
    each_panel<A>(t.values, [&](index_t x, index_t width) {
      matrix<A> const du = columns_from(d.du, x), dout = columns_from(d.dout, x), dstate = columns_from(b.dstate, x);
      product(term<A>{plain(t.writes), dstate, t.key_dim}, {transposed(t.p), dout, t.rows, triangle::upper}, t.rows, width, du);
      term<A> looked_up{};
      if (delta()) {
        solve_transposed(t.solved, t.rows, width, du);
        matrix<A> const through = columns_from(d.through, x);
        scale_rows(du, t.looked_up_by, A(1), t.rows, width, through);
        looked_up = {transposed(t.k), through, t.rows};
      }
      product(term<A>{transposed(t.reads), dout, t.rows}, looked_up, t.dim, width, dstate, {update::rescale, t.total});
    });
  }

  /// Gradients of beta, of k.k and of k as it looks up the state; du becomes the gradient of v.
  void pull_errors(matrix<A> state) {
    for (index_t i = 0; i < t.rows; ++i) d.beta[i] = dot(d.du.row(i), t.y.row(i), t.values);
    scale_rows(d.du, t.beta, A(1), t.rows, t.values, d.du);
    lower_scores(plain(d.du), d.ut, t.rows, t.value_dim, d.dl); // negative
    transpose(d.through, t.rows, t.values, d.dyt, t.cols);
    product(term<A>{plain(state), d.dyt, t.value_dim}, t.dim, t.cols, d.dkct);
  }

  /// Gradients of rows, where they are wanted.
  void add(index_t first, linear_row_grads<A> const& grad) {
    if (set.normalise) {
      pull_normalised(t.q, t.q_norm, t.rows, t.dim, d.dq);
      pull_normalised(t.k, t.k_norm, t.rows, t.dim, d.dk);
    }
    add_rows(d.dq, t.n, head_rows<A>(grad.dq, first, forwards.key_head()));
    add_rows(d.dk, t.n, head_rows<A>(grad.dk, first, forwards.key_head()));
    if (in.form == map_form::diagonal)
      add_rows(d.dg, t.n, head_rows<A>(grad.dgates[0], first, head));
    else
      add_numbers(d.g, head_rows<A>(grad.dgates[0], first, head));
    if (delta()) add_numbers(d.beta, head_rows<A>(grad.dgates[1], first, head));
  }
  void add_numbers(A const* from, head_rows<A> to) {
    if (!to.data) return;
    for (index_t i = 0; i < t.n; ++i) *to.row(i) += from[i];
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
