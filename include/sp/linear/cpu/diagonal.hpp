// A decay for each token and row of the state: pairs of tokens inside a chunk are weighed row by row, directly, because no product of two
// factors holds e^(G_i - G_j) without overflow. Chunks are short, and the state carries everything from one to the next.
#pragma once

#include <sp/linear/cpu/scalar.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

template <class A>
struct diagonal_decays {
  using V = simd<A>;
  chunk_tiles<A>& t;
  A scale;

  /// Log decays (tokens, key dim), cumulated.
  void cumulate(head_rows<A const> g) const {
    for (index_t i = 0; i < t.rows; ++i) {
      index_t const count = i < t.n ? g.width : 0;
      for (index_t d = 0; d < count; ++d) t.low.row(i)[d] = g.row(i)[d * g.stride];
      std::fill(t.low.row(i) + count, t.low.row(i) + t.dim, A(0));
    }
    each_vector<A>(t.dim, [&](index_t d) {
      V hi(A(0)), lo(A(0));
      for (index_t i = 0; i < t.rows; ++i) {
        add_log(hi, lo, V::load(t.low.row(i) + d));
        hi.store(t.high.row(i) + d);
        lo.store(t.low.row(i) + d);
      }
      decay_of(hi + lo).store(t.total + d);
    });
  }

  void prepare(head_rows<A const> g, linear_scores const& want) const {
    cumulate(g);
    scaled_rows(t.k, A(1), t.rows - 1, t.writes);
    if (!want.outputs) return;
    scaled_rows(t.q, scale, -1, t.reads);
    for (index_t i = 0; i < t.rows; ++i) {
      for (index_t j = 0; j <= i; ++j) t.p.row(i)[j] = scale * weighed_dot(i, j);
      std::fill(t.p.row(i) + i + 1, t.p.row(i) + t.cols, A(0));
    }
  }

  /// From gradients of p, qst and ket to those of q, k and the log decays.
  void pull(chunk_grads<A>& d) const {
    transpose(d.dqst, t.dim, t.rows, d.dq, t.dim);
    transpose(d.dket, t.dim, t.rows, d.dk, t.dim);
    each_vector<A>(t.dim, [&](index_t x) {
      pull_factors(d, x);
      for (index_t i = 0; i < t.n; ++i) pull_row(d, x, i);
    });
  }

private:
  V log_between(index_t i, index_t j, index_t d) const {
    V const high = V::load(t.high.row(i) + d) - V::load(t.high.row(j) + d);
    return high + (V::load(t.low.row(i) + d) - V::load(t.low.row(j) + d));
  }
  /// Decay from token j to token i; j = -1: from the chunk's begin.
  V decay_between(index_t i, index_t j, index_t d) const {
    if (j < 0) return decay_of(V::load(t.high.row(i) + d) + V::load(t.low.row(i) + d));
    return decay_of(log_between(i, j, d));
  }

  /// Rows times the decay to token `last`, or, if that is -1, from the chunk's begin.
  void scaled_rows(matrix<A> from, A times, index_t last, matrix<A> to) const {
    for (index_t i = 0; i < t.rows; ++i)
      each_vector<A>(t.dim, [&](index_t d) {
        V const decay = last < 0 ? decay_between(i, -1, d) : decay_between(last, i, d);
        (V::load(from.row(i) + d) * V(times) * decay).store(to.row(i) + d);
      });
  }

  A weighed_dot(index_t i, index_t j) const {
    V sum(A(0));
    each_vector<A>(t.dim, [&](index_t d) {
      sum = multiply_add(V::load(t.q.row(i) + d) * V::load(t.k.row(j) + d), decay_between(i, j, d), sum);
    });
    return sum_of(sum);
  }

  /// dq and dk hold gradients of qst and ket; they become those of q and k, and dg what these and the whole chunk add.
  void pull_factors(chunk_grads<A>& d, index_t x) const {
    V behind(A(0)), before = V::load(d.total + x);
    for (index_t i = t.rows; i-- > 0;) {
      V const dq = V::load(d.dq.row(i) + x) * V(scale) * decay_between(i, -1, x);
      behind = multiply_add(dq, V::load(t.q.row(i) + x), behind);
      dq.store(d.dq.row(i) + x);
      behind.store(d.dg.row(i) + x);
    }
    for (index_t i = 0; i < t.rows; ++i) {
      V const dk = V::load(d.dk.row(i) + x) * decay_between(t.rows - 1, i, x);
      (V::load(d.dg.row(i) + x) + before).store(d.dg.row(i) + x);
      before = multiply_add(dk, V::load(t.k.row(i) + x), before);
      dk.store(d.dk.row(i) + x);
    }
  }

  /// Row i of the scores: what it adds to dq of token i, dk of those before it, and dg of those between.
  void pull_row(chunk_grads<A>& d, index_t x, index_t i) const {
    V const q = V::load(t.q.row(i) + x);
    V dq = V::load(d.dq.row(i) + x), between(A(0));
    for (index_t j = 0; j <= i; ++j) {
      V const k = V::load(t.k.row(j) + x), weight = V(scale * d.dp.row(i)[j]) * decay_between(i, j, x), by_q = weight * q;
      dq = multiply_add(weight, k, dq);
      (V::load(d.dk.row(j) + x) + by_q).store(d.dk.row(j) + x);
      if (j == i) break;
      between = multiply_add(by_q, k, between);
      (V::load(d.dg.row(j + 1) + x) + between).store(d.dg.row(j + 1) + x);
    }
    dq.store(d.dq.row(i) + x);
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
