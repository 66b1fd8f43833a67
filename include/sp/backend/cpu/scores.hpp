// What happens to a tile of scores between the matrix products: features, mask, online softmax, and their derivative.
// A row sees only its own numbers; a tile of which it sees nothing leaves its (m, l, acc) bitwise as they were.
#pragma once

#include <limits>

#include <sp/backend/cpu/product.hpp>
#include <sp/backend/features.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// The running state of a query tile's online softmax, by packed row: maximum, sum, and the factor on what was summed before.
template <class A>
struct softmax_state {
  alignas(64) std::array<A, q_tile> m, l, rescale;
};

/// A query tile, a key tile and how one head modifies their scores.
template <class A, class ScoreMod>
struct score_context {
  ScoreMod const& modify;
  A scale;
  tile_rows const& q;
  tile_rows const& k;
  tile_mask const& mask;
  index_t q_origin, k_origin;

  index_t q_offset(index_t i) const { return q.position(i) - q_origin; }
  index_t k_offset(index_t j) const { return k.position(j) - k_origin; }
};

/// A range of keys widened to whole vectors.
template <class A>
tile_mask::keys_seen whole_vectors(tile_mask::keys_seen h) {
  constexpr index_t n = simd<A>::lanes;
  return {h.lo / n * n, round_up(h.hi, n)};
}

/// Where the keys of a tile stand in it, as numbers: for what depends on the distance of query and key.
template <class A, class ScoreMod>
struct key_offsets {
  alignas(64) std::array<A, max_tile> x{};
  explicit key_offsets(tile_rows const& k) {
    if constexpr (ScoreMod::biased)
      for (index_t j = 0; j < k.count; ++j) x[std::size_t(j)] = A(k.offset_in_tile[std::size_t(j)]);
  }
  /// k offset - q offset of keys j, j + 1, ...; base_minus_q is that of the place where the tile begins.
  simd<A> distance(index_t j, index_t base_minus_q) const {
    if constexpr (ScoreMod::biased)
      return simd<A>::load(x.data() + j) + simd<A>(A(base_minus_q));
    else
      return simd<A>(A(0));
  }
};

/// Scores become unnormalised probabilities (times dropout factors); m and l move on, rescale becomes the factor for the old sums.
template <class A, class ScoreMod>
void online_softmax(score_context<A, ScoreMod> const& c, matrix<A> s, softmax_state<A>& state) {
  using V = simd<A>;
  constexpr A none = minus_infinity<A>;
  key_offsets<A, ScoreMod> offsets(c.k);
  alignas(64) std::array<A, q_tile> before = state.m, sums{};
  V unused(A(1));
  for (index_t i = 0; i < c.mask.rows; ++i) {
    auto [lo, hi] = whole_vectors<A>(c.mask.hull[std::size_t(i / micro_rows)]);
    A* row = s.row(i);
    index_t base = c.k.begin - c.k_origin - c.q_offset(i);
    for (index_t j = lo; j < hi; j += V::lanes)
      c.modify(V::load(row + j) * V(c.scale), offsets.distance(j, base), unused).store(row + j);
    c.mask.each_gap(i, lo, hi, [&](index_t a, index_t b) { std::fill(row + a, row + b, none); });
    V most(none);
    for (index_t j = lo; j < hi; j += V::lanes) most = larger(most, V::load(row + j));
    A m = std::max(most.largest(), state.m[std::size_t(i)]);
    state.m[std::size_t(i)] = m;
    V shift(is_minus_infinity(m) ? A(0) : m), sum(A(0));
    for (index_t j = lo; j < hi; j += V::lanes) {
      V p = exp_of(V::load(row + j) - shift);
      sum = sum + p;
      p.store(row + j);
    }
    sums[std::size_t(i)] = sum.sum();
    if constexpr (ScoreMod::drops) {
      auto factor = c.modify.dropout_of_row(c.q_offset(i));
      for (index_t j = lo; j < min(hi, c.mask.keys); ++j) row[j] *= factor(c.k_offset(j));
    }
  }
  for (index_t i = 0; i < c.mask.rows; i += V::lanes) { // rows padded to whole vectors: the arrays are
    auto at = std::size_t(i);
    V old = V::load(&before[at]), now = V::load(&state.m[at]), least(std::numeric_limits<A>::lowest());
    V rescale = exp_of(larger(old, least) - larger(now, least)); // -inf to -inf is 1
    rescale.store(&state.rescale[at]);
    multiply_add(V::load(&state.l[at]), rescale, V::load(&sums[at])).store(&state.l[at]);
  }
}

/// Scores become probabilities times dropout factors, for dV; dp becomes the gradient of the scaled dot products, for dQ and dK.
/// Both are zero where nothing is seen, over whole rows of the tile.
template <class A, class ScoreMod>
void softmax_backward(score_context<A, ScoreMod> const& c, matrix<A> s, matrix<A> dp, A const* lse, A const* delta) {
  using V = simd<A>;
  key_offsets<A, ScoreMod> offsets(c.k);
  alignas(64) std::array<A, max_tile> keep;
  V kept(A(1)), derivative(A(1));
  for (index_t i = 0; i < c.mask.rows; ++i) {
    auto [lo, hi] = whole_vectors<A>(c.mask.hull[std::size_t(i / micro_rows)]);
    A *row = s.row(i), *grad = dp.row(i);
    index_t base = c.k.begin - c.k_origin - c.q_offset(i);
    if constexpr (ScoreMod::drops) {
      auto factor = c.modify.dropout_of_row(c.q_offset(i));
      for (index_t j = lo; j < hi; ++j) keep[std::size_t(j)] = j < c.mask.keys ? factor(c.k_offset(j)) : A(0);
    }
    for (index_t j = lo; j < hi; j += V::lanes) {
      V p = exp_of(c.modify(V::load(row + j) * V(c.scale), offsets.distance(j, base), derivative) - V(lse[i]));
      if constexpr (ScoreMod::drops) kept = V::load(&keep[std::size_t(j)]);
      (p * (kept * V::load(grad + j) - V(delta[i])) * derivative).store(grad + j);
      (p * kept).store(row + j);
    }
    auto clear = [&](index_t a, index_t b) {
      std::fill(row + a, row + b, A(0));
      std::fill(grad + a, grad + b, A(0));
    };
    c.mask.each_gap(i, lo, hi, clear);
    clear(0, lo);
    clear(hi, c.k.padded);
  }
}

} // namespace SP_CPU_TARGET
} // namespace sp::detail
