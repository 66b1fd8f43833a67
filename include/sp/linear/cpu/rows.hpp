// Rows of tiles, one after the other: norms, factors, sums.
// A row's result depends on that row alone.
#pragma once

#include <sp/linear/cpu/tiles.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// x / sqrt(sum x^2 + 1e-6) for each row; `by` is what each was multiplied by.
template <class A>
void normalise_rows(matrix<A> x, index_t rows, index_t dim, A* by) {
  using V = simd<A>;
  for (index_t i = 0; i < rows; ++i) {
    V sum(A(0));
    each_vector<A>(dim, [&](index_t d) { sum = multiply_add(V::load(x.row(i) + d), V::load(x.row(i) + d), sum); });
    by[i] = A(1) / std::sqrt(sum_of(sum) + A(1e-6));
    each_vector<A>(dim, [&](index_t d) { (V::load(x.row(i) + d) * V(by[i])).store(x.row(i) + d); });
  }
}
/// Its transpose: x are the normalised rows.
template <class A>
void pull_normalised(matrix<A> x, A const* by, index_t rows, index_t dim, matrix<A> dx) {
  using V = simd<A>;
  for (index_t i = 0; i < rows; ++i) {
    V sum(A(0));
    each_vector<A>(dim, [&](index_t d) { sum = multiply_add(V::load(x.row(i) + d), V::load(dx.row(i) + d), sum); });
    V const along(-sum_of(sum));
    each_vector<A>(dim, [&](index_t d) {
      (multiply_add(V::load(x.row(i) + d), along, V::load(dx.row(i) + d)) * V(by[i])).store(dx.row(i) + d);
    });
  }
}

/// Each row times a number: to = from o (times factor).
template <class A>
void scale_rows(matrix<A> from, A const* factor, A times, index_t rows, index_t width, matrix<A> to) {
  using V = simd<A>;
  for (index_t i = 0; i < rows; ++i) {
    V const by(factor[i] * times);
    each_vector<A>(width, [&](index_t d) { (V::load(from.row(i) + d) * by).store(to.row(i) + d); });
  }
}

template <class A>
A dot(A const* x, A const* y, index_t width) {
  using V = simd<A>;
  V sum(A(0));
  each_vector<A>(width, [&](index_t d) { sum = multiply_add(V::load(x + d), V::load(y + d), sum); });
  return sum_of(sum);
}

/// Each row of a lower triangular tile, as far as products read it.
template <class A>
void scale_lower(matrix<A> from, A const* factor, A times, index_t rows, matrix<A> to) {
  using V = simd<A>;
  for (index_t i = 0; i < rows; ++i) {
    V const by(factor[i] * times);
    each_vector<A>(round_up(i + 1, micro_rows), [&](index_t j) { (V::load(from.row(i) + j) * by).store(to.row(i) + j); });
  }
}
/// Each column of it.
template <class A>
void scale_lower_columns(matrix<A> from, A const* factor, A times, index_t rows, matrix<A> to) {
  using V = simd<A>;
  for (index_t i = 0; i < rows; ++i)
    each_vector<A>(round_up(i + 1, micro_rows),
                   [&](index_t j) { (V::load(from.row(i) + j) * V(times) * V::load(factor + j)).store(to.row(i) + j); });
}

} // namespace SP_CPU_TARGET
} // namespace sp::detail
