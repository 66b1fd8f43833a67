// A decay that is one number per token and head, or none: factors of a chunk from its log decays, and the gradients of both.
// The gradient of a log decay adds up what that token's decay multiplies: a rectangle of pairs, never a difference of two larger sums.
#pragma once

#include <sp/linear/cpu/chunk.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// What a kernel computes besides its recurrence.
struct linear_scores {
  bool outputs; ///< q is read: p and qst are wanted
  bool delta;   ///< l is wanted
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
      decay_of(h + l).store(t.begin + i);
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

  /// to = times decay o scores, for j < i + diagonal.
  template <class Times>
  void masked(matrix<A> scores, index_t diagonal, Times const& times, matrix<A> to) const {
    for (index_t i = 0; i < t.rows; ++i) {
      V const bound{A(i + diagonal)}, zero(A(0));
      each_vector<A>(i + 1, [&](index_t j) {
        V const x = V::load(scores.row(i) + j) * V::load(t.decay.row(i) + j) * times(i, j);
        where_less(numbers_from<A>(j), bound, x, zero).store(to.row(i) + j);
      });
      std::fill(to.row(i) + round_up(i + 1, V::lanes), to.row(i) + t.cols, A(0));
    }
  }

  void prepare(head_rows<A const> g, linear_scores const& want) const {
    cumulate(g);
    transpose(t.k, t.rows, t.dim, t.kt, t.cols);
    by_column(t.kt, t.end, A(1), t.ket);
    if (want.outputs || want.delta) pair_decays();
    if (want.delta) {
      lower_scores<true>(t.kt, t.kt, t.rows, t.key_dim, t.l);
      masked(
          t.l, 0, [](index_t, index_t) { return V(A(1)); }, t.l);
    }
    if (!want.outputs) return;
    transpose(t.q, t.rows, t.dim, t.qt, t.cols);
    by_column(t.qt, t.begin, scale, t.qst);
    lower_scores<true>(t.qt, t.kt, t.rows, t.key_dim, t.p);
    masked(
        t.p, 1, [&](index_t, index_t) { return V(scale); }, t.p);
  }

  /// From gradients of p, qst, ket (and of l and of k as it looks up the state) to those of q, k and the log decays.
  void pull(chunk_grads<A>& d, linear_scores const& want) const {
    pull_factors(d, want.delta);
    pull_scores(d, want.delta);
    transpose(d.dp, t.rows, t.rows, d.turned, t.cols);
    add_times_upper(t.kt, d.turned, t.dim, t.rows, d.dqst);
    add_times_lower(t.qt, d.dp, t.dim, t.rows, d.dket);
    if (want.delta) {
      transpose(d.dl, t.rows, t.rows, d.turned, t.cols);
      add_times_lower(t.kt, d.dl, t.dim, t.rows, d.dket);
      add_times_upper(t.kt, d.turned, t.dim, t.rows, d.dket);
    }
    transpose(d.dqst, t.dim, t.rows, d.dq, t.dim);
    transpose(d.dket, t.dim, t.rows, d.dk, t.dim);
    sum_decays(d);
  }

private:
  /// to = from with each column times a number.
  void by_column(matrix<A> from, A const* factor, A times, matrix<A> to) const {
    for (index_t d = 0; d < t.dim; ++d) {
      each_vector<A>(t.rows,
                     [&](index_t i) { (V::load(from.row(d) + i) * V::load(factor + i) * V(times)).store(to.row(d) + i); });
      std::fill(to.row(d) + round_up(t.rows, V::lanes), to.row(d) + t.cols, A(0));
    }
  }

  /// The factors of q and k against the state; dqst and dket become dq and dk of these parts.
  void pull_factors(chunk_grads<A>& d, bool delta) const {
    each_vector<A>(t.rows, [&](index_t i) {
      V const begin = V::load(t.begin + i), end = V::load(t.end + i), from_begin = begin * V(scale);
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
      d.g[i] = around.sum();
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
