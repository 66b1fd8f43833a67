// Matrix products of the chunk walk: whole, triangular, and the triangular solve that the delta rule adds, from the register tile of
// backend/cpu. A row's result never reads what stands behind it in a triangular matrix, not even times zero, beyond its own register tile.
#pragma once

#include <sp/linear/cpu/tiles.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// C(rows, width) = (0, scale o C, or C) + A(rows, inner) B(inner, width).
template <update Update, class A>
void product(matrix<A> a, matrix<A> b, index_t rows, index_t inner, index_t width, matrix<A> c, A const* scale = nullptr) {
  for (index_t d = 0; d < width; d += micro_columns<A>)
    for (index_t i = 0; i < rows; i += micro_rows)
      micro_product<false, Update, A>(a.row(i), a.stride, b.data + d, b.stride, inner, c.row(i) + d, c.stride,
                                      scale ? scale + i : nullptr);
}

/// The lower triangle of C(rows, rows) = A(rows, inner) B(inner, rows), and some of the upper one.
template <class A>
void lower_scores(matrix<A> a, matrix<A> b, index_t rows, index_t inner, matrix<A> c) {
  for (index_t j = 0; j < rows; j += micro_columns<A>)
    for (index_t i = j; i < rows; i += micro_rows)
      micro_product<false, update::overwrite, A>(a.row(i), a.stride, b.data + j, b.stride, inner, c.row(i) + j, c.stride,
                                                 nullptr);
}

/// C(rows, width) = scale o C + P(rows, rows) Y(rows, width), or C + P Y; P lower triangular.
template <update Update, class A>
void add_lower(matrix<A> p, matrix<A> y, index_t rows, index_t width, matrix<A> c, A const* scale = nullptr) {
  for (index_t d = 0; d < width; d += micro_columns<A>)
    for (index_t i = 0; i < rows; i += micro_rows)
      micro_product<false, Update, A>(p.row(i), p.stride, y.data + d, y.stride, i + micro_rows, c.row(i) + d, c.stride,
                                      scale ? scale + i : nullptr);
}

/// The same with P^T.
template <update Update, class A>
void add_lower_transposed(matrix<A> p, matrix<A> y, index_t rows, index_t width, matrix<A> c, A const* scale = nullptr) {
  for (index_t d = 0; d < width; d += micro_columns<A>)
    for (index_t j = 0; j < rows; j += micro_rows)
      micro_product<true, Update, A>(p.row(j) + j, p.stride, y.row(j) + d, y.stride, rows - j, c.row(j) + d, c.stride,
                                     scale ? scale + j : nullptr);
}

/// The register tile of a solve: Y = (I - N)^-1 Y for micro_rows rows by two vectors; N strictly lower triangular. Backwards: N^T.
template <bool Backwards, class A>
void micro_solve(A const* n, index_t ldn, A* y, index_t ldy) {
  using V = simd<A>;
  V left[micro_rows], right[micro_rows];
  for (int i = 0; i < micro_rows; ++i) left[i] = V::load(y + i * ldy), right[i] = V::load(y + i * ldy + V::lanes);
  for (int i = 1; i < micro_rows; ++i)
    for (int j = 0; j < i; ++j) {
      int const to = Backwards ? micro_rows - 1 - i : i, from = Backwards ? micro_rows - 1 - j : j;
      V e(Backwards ? n[from * ldn + to] : n[to * ldn + from]);
      left[to] = multiply_add(e, left[from], left[to]);
      right[to] = multiply_add(e, right[from], right[to]);
    }
  for (int i = 0; i < micro_rows; ++i) left[i].store(y + i * ldy), right[i].store(y + i * ldy + V::lanes);
}

/// Y(rows, width) = (I - N)^-1 Y by substitution, N strictly lower triangular.
template <class A>
void solve(matrix<A> n, index_t rows, index_t width, matrix<A> y) {
  for (index_t d = 0; d < width; d += micro_columns<A>)
    for (index_t i = 0; i < rows; i += micro_rows) {
      if (i > 0)
        micro_product<false, update::add, A>(n.row(i), n.stride, y.data + d, y.stride, i, y.row(i) + d, y.stride, nullptr);
      micro_solve<false, A>(n.row(i) + i, n.stride, y.row(i) + d, y.stride);
    }
}

/// Y = (I - N)^-T Y.
template <class A>
void solve_transposed(matrix<A> n, index_t rows, index_t width, matrix<A> y) {
  for (index_t d = 0; d < width; d += micro_columns<A>)
    for (index_t i = rows - micro_rows; i >= 0; i -= micro_rows) {
      index_t const behind = i + micro_rows;
      if (behind < rows)
        micro_product<true, update::add, A>(n.row(behind) + i, n.stride, y.row(behind) + d, y.stride, rows - behind, y.row(i) + d,
                                            y.stride, nullptr);
      micro_solve<true, A>(n.row(i) + i, n.stride, y.row(i) + d, y.stride);
    }
}

} // namespace SP_CPU_TARGET
} // namespace sp::detail
