// Matrix products of packed tiles, from one register tile: micro_rows rows by two vectors.
// Every element of a product is one chain of multiply-adds in the order of the inner index, wherever it stands in its tile.
#pragma once

#include <utility>

#include <sp/backend/cpu/tile_mask.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// What a product does to the old contents of its target: C = A B, scale o C + A B, or C + A B.
enum class update { overwrite, rescale, add };

template <class A>
inline constexpr index_t micro_columns = 2 * simd<A>::lanes;

/// The micro-kernel, micro_rows x micro_columns of C in registers: C = (0, scale o C, or C) + A B over `inner` terms.
/// Element (i, x) of A is a[i lda + x], or a[x lda + i] if Transposed; row x of B is b + x ldb.
template <bool Transposed, update Update, class A>
void micro_product(A const* a, index_t lda, A const* b, index_t ldb, index_t inner, A* c, index_t ldc,
                   [[maybe_unused]] A const* scale) {
  using V = simd<A>;
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    V left[] = {V(A(I * 0))...}, right[] = {V(A(I * 0))...};
    for (index_t x = 0; x < inner; ++x) {
      V b0 = V::load(b), b1 = V::load(b + V::lanes);
      (
          [&] {
            V e(Transposed ? a[I] : a[I * lda]);
            left[I] = multiply_add(e, b0, left[I]);
            right[I] = multiply_add(e, b1, right[I]);
          }(),
          ...);
      a += Transposed ? lda : 1;
      b += ldb;
    }
    (
        [&] {
          A* row = c + I * ldc;
          if constexpr (Update == update::rescale) {
            left[I] = multiply_add(V(scale[I]), V::load(row), left[I]);
            right[I] = multiply_add(V(scale[I]), V::load(row + V::lanes), right[I]);
          }
          if constexpr (Update == update::add) {
            left[I] = V::load(row) + left[I];
            right[I] = V::load(row + V::lanes) + right[I];
          }
          left[I].store(row);
          right[I].store(row + V::lanes);
        }(),
        ...);
  }
  (std::make_integer_sequence<int, micro_rows>{});
}

/// A packed matrix: rows of `stride` elements.
template <class A>
struct matrix {
  A* data;
  index_t stride;
  A* row(index_t i) const { return data + i * stride; }
};

/// S(rows, keys) = X(rows, dim) Y(keys, dim)^T where the mask's hull wants it. Y comes as panels (dim, micro_columns) of keys.
template <class A>
void scores_product(matrix<A> x, A const* panels, index_t dim, tile_mask const& mask, index_t keys_padded, matrix<A> s) {
  constexpr index_t n = micro_columns<A>;
  for (index_t j = 0; j < keys_padded; j += n)
    for (index_t i = 0; i < mask.rows; i += micro_rows) {
      auto const& h = mask.hull[std::size_t(i / micro_rows)];
      if (h.lo >= j + n || h.hi <= j) continue;
      micro_product<false, update::overwrite, A>(x.row(i), x.stride, panels + j * dim, n, dim, s.row(i) + j, s.stride, nullptr);
    }
}

/// C(rows, width) = [scale o C] + P(rows, keys) Y(keys, width) over the keys in the mask's hull. Update is `overwrite` or `rescale`.
template <update Update, class A>
void rows_product(matrix<A> p, matrix<A> y, index_t width, tile_mask const& mask, matrix<A> c, A const* scale) {
  for (index_t d = 0; d < width; d += micro_columns<A>)
    for (index_t i = 0; i < mask.rows; i += micro_rows) {
      auto const& h = mask.hull[std::size_t(i / micro_rows)];
      if (Update == update::rescale && h.lo >= h.hi) continue; // sees nothing: its scale is 1
      micro_product<false, Update, A>(p.row(i) + h.lo, p.stride, y.row(h.lo) + d, y.stride, h.hi - h.lo, c.row(i) + d, c.stride,
                                      Update == update::rescale ? scale + i : nullptr);
    }
}

/// C(keys, width) += P(rows, keys)^T Y(rows, width) over the rows that see the keys. P is zero where nothing is seen.
template <class A>
void keys_product(matrix<A> p, matrix<A> y, index_t width, tile_mask const& mask, index_t keys_padded, matrix<A> c) {
  for (index_t j = 0; j < keys_padded; j += micro_rows) {
    auto [first, last] = mask.rows_seeing(j, micro_rows);
    if (first >= last) continue;
    for (index_t d = 0; d < width; d += micro_columns<A>)
      micro_product<true, update::add, A>(p.row(first) + j, p.stride, y.row(first) + d, y.stride, last - first, c.row(j) + d,
                                          c.stride, nullptr);
  }
}

} // namespace SP_CPU_TARGET
} // namespace sp::detail
