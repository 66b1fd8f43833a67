// A decay that is one number per token and head, or none: factors of a chunk from its log decays, and the gradients of both.
// The gradient of a log decay adds up what that token's decay multiplies: a rectangle of pairs, never a difference of two larger sums.
#pragma once

#include <sp/linear/cpu/chunk.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// What is wanted of a chunk besides what it does to a state.
struct linear_scores {
  bool outputs;       ///< q is read: p is wanted
  bool delta;         ///< l is wanted
  bool grads = false; ///< qst is wanted, and qt
};

template <class A>
struct scalar_decays {
  using V = simd<A>;
  chunk_tiles<A>& t;
  A scale;

  /// Decays of the chunk from the log decays of its tokens; null data: no decay.
  void cumulate(head_rows<A const> g) const {
    V hi(A(0)), lo(A(0));
    A *high = t.high.data, *low = t.low.data;
    index_t const width = round_up(t.rows, V::lanes);
    for (index_t i = 0; i < width; ++i) {
      if (i < t.n && g.data) add_log(hi, lo, V(*g.row(i)));
      high[i] = hi.v[0], low[i] = lo.v[0];
    }
    V const last_high(high[t.n - 1]), last_low(low[t.n - 1]);
    each_vector<A>(t.rows, [&](index_t i) {
      V const h = V::load(high + i), l = V::load(low + i);
      V const begin = decay_of(h + l);
      begin.store(t.begin + i);
      (begin * V(scale)).store(t.read_by + i);
      decay_of((last_high - h) + (last_low - l)).store(t.end + i);
    });
    std::fill(t.total, t.total + t.dim, t.begin[t.n - 1]);
  }

  /// decay(i, j) = e^(G_i - G_j) for j <= i, else 0.
  void pair_decays() const {
    A const *high = t.high.data, *low = t.low.data;
    for (index_t i = 0; i < t.rows; ++i) {
      V const h(high[i]), l(low[i]), number{A(i)}, never(2 * least_log<A>);
      A* row = t.decay.row(i);
      each_vector<A>(i + 1, [&](index_t j) {
        V const x = (h - V::load(high + j)) + (l - V::load(low + j));
        decay_of(where_less(number, numbers_from<A>(j), never, x)).store(row + j);
      });
      index_t const done = round_up(i + 1, V::lanes);
      std::fill(row + done, row + t.cols, A(0));
    }
  }

  /// scores = times decay o scores for j < i + diagonal, else 0.
  void masked(matrix<A> scores, index_t diagonal, A times) const {
    for (index_t i = 0; i < t.rows; ++i) {
      V const bound{A(i + diagonal)}, zero(A(0));
      A* row = scores.row(i);
      each_vector<A>(i + 1, [&](index_t j) {
        V const x = V::load(row + j) * V::load(t.decay.row(i) + j) * V(times);
        where_less(numbers_from<A>(j), bound, x, zero).store(row + j);
      });
      std::fill(row + round_up(i + 1, V::lanes), row + t.cols, A(0));
    }
  }

  void prepare(head_rows<A const> g, linear_scores const& want) const {
    cumulate(g);
    transpose(t.k, t.rows, t.dim, t.kt, t.cols);
    by_column(t.kt, t.end, t.ket);
    if (want.outputs || want.delta) pair_decays();
    if (want.delta) {
      lower_scores(t.k, t.kt, t.rows, t.key_dim, t.l);
      masked(t.l, 0, A(1));
    }
    if (want.outputs) {
      lower_scores(t.q, t.kt, t.rows, t.key_dim, t.p);
      masked(t.p, 1, scale);
    }
    if (want.grads) {
      transpose(t.q, t.rows, t.dim, t.qt, t.cols);
      by_column(t.qt, t.read_by, t.qst);
    }
  }

  /// From gradients of p, qst, ket (and of l and of k as it looks up the state) to those of q, k and the log decays.
  void pull(chunk_grads<A>& d, linear_scores const& want) const {
    pull_factors(d, want.delta);
    transpose(d.dqst, t.dim, t.rows, d.dq, t.dim);
    transpose(d.dket, t.dim, t.rows, d.dk, t.dim);
    pull_scores(d, want.delta);
    add_lower<update::add>(d.dp, t.k, t.rows, t.dim, d.dq);
    add_lower_transposed<update::add>(d.dp, t.q, t.rows, t.dim, d.dk);
    if (want.delta) { // k.k is symmetric: both of its sides at once
      transpose(d.dl, t.rows, t.rows, d.turned, t.cols);
      for (index_t i = 0; i < t.rows; ++i)
        each_vector<A>(t.cols,
                       [&](index_t j) { (V::load(d.turned.row(i) + j) + V::load(d.dl.row(i) + j)).store(d.turned.row(i) + j); });
      product<update::add>(d.turned, t.k, t.rows, t.rows, t.dim, d.dk);
    }
    sum_decays(d);
  }

private:
  /// to = from with each column times a number.
  void by_column(matrix<A> from, A const* factor, matrix<A> to) const {
    for (index_t d = 0; d < t.dim; ++d) {
      each_vector<A>(t.rows, [&](index_t i) { (V::load(from.row(d) + i) * V::load(factor + i)).store(to.row(d) + i); });
      std::fill(to.row(d) + round_up(t.rows, V::lanes), to.row(d) + t.cols, A(0));
    }
  }

  /// The factors of q and k against the state; dqst and dket become dq and dk of these parts.
  void pull_factors(chunk_grads<A>& d, bool delta) const {
    each_vector<A>(t.rows, [&](index_t i) {
      V const begin = V::load(t.begin + i), end = V::load(t.end + i), from_begin = V::load(t.read_by + i);
      V reads(A(0)), writes(A(0));
      for (index_t x = 0; x < t.dim; ++x) {
        V const q = V::load(t.qt.row(x) + i), k = V::load(t.kt.row(x) + i);
        V const dq = V::load(d.dqst.row(x) + i) * from_begin, added = V::load(d.dket.row(x) + i) * end;
        V dk = added;
        reads = multiply_add(dq, q, reads);
        writes = multiply_add(added, k, writes);
        if (delta) {
          V const looked_up = V::load(d.dkct.row(x) + i) * begin;
          reads = multiply_add(looked_up, k, reads);
          dk = dk + looked_up;
        }
        dq.store(d.dqst.row(x) + i);
        dk.store(d.dket.row(x) + i);
      }
      reads.store(d.reads + i);
      writes.store(d.writes + i);
    });
  }

  /// The scores between tokens: dp and dl become gradients of q.k and k.k, and g what pairs around each token add to its log decay.
  void pull_scores(chunk_grads<A>& d, bool delta) const {
    std::fill(d.later, d.later + t.cols, A(0));
    for (index_t i = t.rows; i-- > 0;) {
      V const bound{A(i)}, zero(A(0));
      V around(A(0));
      each_vector<A>(i + 1, [&](index_t j) {
        V const before = numbers_from<A>(j), decay = V::load(t.decay.row(i) + j);
        V const dp = V::load(d.dp.row(i) + j);
        V x = dp * V::load(t.p.row(i) + j);
        (dp * decay * V(scale)).store(d.dp.row(i) + j);
        if (delta) {
          V const dl = V::load(d.dl.row(i) + j);
          x = x + dl * V::load(t.l.row(i) + j);
          where_less(before, bound, dl * decay, zero).store(d.dl.row(i) + j);
        }
        V const later = V::load(d.later + j) + where_less(before, bound, x, zero);
        later.store(d.later + j);
        around = around + where_less(before, bound, later, zero);
      });
      index_t const done = round_up(i + 1, V::lanes);
      std::fill(d.dp.row(i) + done, d.dp.row(i) + t.cols, A(0));
      if (delta) std::fill(d.dl.row(i) + done, d.dl.row(i) + t.cols, A(0));
      d.g[i] = sum_of(around);
    }
  }

  /// A token's log decay is part of what it and later ones read, of what earlier ones write, and of what the whole chunk keeps.
  void sum_decays(chunk_grads<A>& d) const {
    A kept = 0, behind = 0, before = 0;
    for (index_t x = 0; x < t.key_dim; ++x) kept += d.total[x];
    for (index_t i = t.n; i-- > 0;) d.g[i] += (behind += d.reads[i]);
    for (index_t i = 0; i < t.n; ++i) {
      d.g[i] += before + kept;
      before += d.writes[i];
    }
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
