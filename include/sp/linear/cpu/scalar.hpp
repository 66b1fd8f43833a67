// A decay that is one number per token and head, or none: factors of a chunk from its log decays, and the gradients of both.
// The gradient of a log decay adds up what that token's decay multiplies: a rectangle of pairs, never a difference of two larger sums.
#pragma once

#include <sp/linear/cpu/chunk.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// What is wanted of a chunk besides what it does to a state.
struct linear_scores {
  bool outputs; ///< q is read: p is wanted
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

  void prepare(head_rows<A const> g, linear_scores const& want) const {
    cumulate(g);
    scale_rows(t.k, t.end, A(1), t.rows, t.dim, t.writes);
    if (!want.outputs && !want.delta) return;
    transpose(t.k, t.rows, t.dim, t.kt, t.cols);
    if (want.delta) lower_scores(plain(t.k), t.kt, t.rows, t.key_dim, t.l);
    if (want.outputs) {
      scale_rows(t.q, t.begin, scale, t.rows, t.dim, t.reads);
      lower_scores(plain(t.q), t.kt, t.rows, t.key_dim, t.p);
    }
    for (index_t i = 0; i < t.rows; ++i) weigh(i, want);
  }

  /// Row i of the scores times decay(i, j) = e^(G_i - G_j): p for j <= i, l for j < i; beyond that nothing, as far as products read.
  void weigh(index_t i, linear_scores const& want) const {
    V const high(t.high.data[i]), low(t.low.data[i]), zero(A(0)), never(2 * least_log<A>), number{A(i)}, next{A(i + 1)};
    A *const p = t.p.row(i), *const l = t.l.row(i);
    each_vector<A>(round_up(i + 1, micro_rows), [&](index_t j) {
      V const x = (high - V::load(t.high.data + j)) + (low - V::load(t.low.data + j)), at = numbers_from<A>(j);
      V const decay = decay_of(where_less(at, next, x, never));
      decay.store(t.decay.row(i) + j);
      if (want.outputs) where_less(at, next, V::load(p + j) * decay * V(scale), zero).store(p + j);
      if (want.delta) where_less(at, number, V::load(l + j) * decay, zero).store(l + j);
    });
  }

  /// From gradients of p, of rows of reads and writes (and of l and of k as it looks up the state) to those of q, k and the log decays.
  void pull(chunk_grads<A>& d, bool delta) const {
    pull_factors(d, delta);
    pull_scores(d, delta);
    product(term<A>{plain(d.dp), t.k, t.rows, triangle::lower}, t.rows, t.dim, d.dq, {update::add});
    product(term<A>{transposed(d.dp), t.q, t.rows, triangle::upper}, t.rows, t.dim, d.dk, {update::add});
    if (delta) // k.k is symmetric: both of its sides
      product(term<A>{plain(d.dl), t.k, t.rows, triangle::lower}, {transposed(d.dl), t.k, t.rows, triangle::upper}, t.rows, t.dim,
              d.dk, {update::add});
    sum_decays(d);
  }

private:
  /// The factors of q and k against the state: dq and dk of these parts, and what they add to sums for log decays.
  void pull_factors(chunk_grads<A>& d, bool delta) const {
    each_vector<A>(t.rows, [&](index_t i) {
      V const end = V::load(t.end + i);
      V reads(A(0)), writes(A(0));
      for (index_t x = 0; x < t.dim; ++x) {
        V const k = V::load(t.kt.row(x) + i), added = V::load(d.dket.row(x) + i) * end;
        V dk = added;
        writes = multiply_add(added, k, writes);
        if (delta) {
          V const looked_up = V::load(d.dkct.row(x) + i);
          reads = multiply_add(looked_up, k, reads);
          dk = dk + looked_up;
        }
        dk.store(d.dket.row(x) + i);
      }
      reads.store(d.reads + i);
      writes.store(d.writes + i);
    });
    transpose(d.dqst, t.dim, t.rows, d.dq, t.dim);
    transpose(d.dket, t.dim, t.rows, d.dk, t.dim);
    scale_rows(d.dq, t.begin, scale, t.rows, t.dim, d.dq);
    for (index_t i = 0; i < t.rows; ++i) d.reads[i] += dot(d.dq.row(i), t.q.row(i), t.dim);
  }

  /// The scores between tokens: dp and dl become gradients of q.k and k.k, and g what pairs around each token add to its log decay.
  void pull_scores(chunk_grads<A>& d, bool delta) const {
    std::fill(d.later, d.later + t.cols, A(0));
    for (index_t i = t.rows; i-- > 0;) {
      V const bound{A(i)}, next{A(i + 1)}, zero(A(0));
      V around(A(0));
      each_vector<A>(round_up(i + 1, micro_rows), [&](index_t j) {
        V const before = numbers_from<A>(j), decay = V::load(t.decay.row(i) + j);
        V const dp = V::load(d.dp.row(i) + j);
        V x = dp * V::load(t.p.row(i) + j);
        where_less(before, next, dp * decay * V(scale), zero).store(d.dp.row(i) + j);
        if (delta) {
          V const dl = zero - V::load(d.dl.row(i) + j);
          x = x + dl * V::load(t.l.row(i) + j);
          where_less(before, bound, dl * decay, zero).store(d.dl.row(i) + j);
        }
        V const later = V::load(d.later + j) + where_less(before, bound, x, zero);
        later.store(d.later + j);
        around = around + where_less(before, bound, later, zero);
      });
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
