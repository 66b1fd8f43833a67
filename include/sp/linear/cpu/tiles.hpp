// Tiles of a chunk of tokens for the kernels of linear attention on the CPU: where they lie, how rows get into them and out again.
// What is beyond the tokens, the key dim or the value dim is zero up to whole register tiles, and stays so under the products.
#pragma once

#include <algorithm>
#include <span>

#include <sp/backend/cpu/pack.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// Hands out tiles of one block, or counts what they take where there is no block.
template <class A>
struct tile_carver {
  A* base = nullptr;
  index_t used = 0;

  A* numbers(index_t n) {
    A* at = base ? base + used : nullptr;
    used += round_up(n, micro_columns<A>) + index_t(64 / sizeof(A));
    return at;
  }
  matrix<A> tile(index_t rows, index_t width) {
    index_t const stride = packed_stride<A>(width);
    return {numbers(round_up(rows, micro_rows) * stride), stride};
  }
};

/// One head of a tensor (rows, heads, width), from one row on.
template <class T>
struct head_rows {
  T* data = nullptr; ///< null: not there, or not wanted
  index_t row_stride = 0, stride = 0, width = 0;

  head_rows(view<T, 3> const& v, index_t first, index_t head)
      : data(v.data ? &v(first, head, 0) : nullptr), row_stride(v.stride(0)), stride(v.stride(2)), width(v.extent(2)) {}
  T* row(index_t i) const { return data + i * row_stride; }
  /// Rows of other heads lie between those of one: processors do not foresee where the next begins.
  void prefetch(index_t i) const {
    if (stride == 1)
      for (index_t d = 0; d < width; d += index_t(64 / sizeof(T))) __builtin_prefetch(row(i) + d);
  }
};

/// to(i, :) = the first n rows, zero beyond them and beyond their width, up to `rows` and `width`.
template <class T, class A>
void load_rows(head_rows<T> from, index_t n, index_t rows, index_t width, matrix<A> to) {
  for (index_t i = 0; i < rows; ++i) {
    A* row = to.row(i);
    index_t const count = i < n ? from.width : 0;
    if (count > 0) {
      T* x = from.row(i);
      if (i + 4 < n) from.prefetch(i + 4);
      if (from.stride == 1)
        for (index_t d = 0; d < count; ++d) row[d] = to_acc(x[d]);
      else
        for (index_t d = 0; d < count; ++d) row[d] = to_acc(x[d * from.stride]);
    }
    std::fill(row + count, row + width, A(0));
  }
}

/// Writes the first n rows as elements.
template <class T, class A>
void store_rows(matrix<A> from, index_t n, head_rows<T> to) {
  for (index_t i = 0; i < n; ++i) {
    A const* row = from.row(i);
    T* x = to.row(i);
    if (to.stride == 1)
      for (index_t d = 0; d < to.width; ++d) x[d] = from_acc<T>(row[d]);
    else
      for (index_t d = 0; d < to.width; ++d) x[d * to.stride] = from_acc<T>(row[d]);
  }
}

/// Adds the first n rows, or subtracts them, where they are wanted.
template <bool Subtract = false, class A>
void add_rows(matrix<A> from, index_t n, head_rows<A> to) {
  if (!to.data) return;
  constexpr A sign = Subtract ? -1 : 1;
  for (index_t i = 0; i < n; ++i) {
    A const* row = from.row(i);
    A* x = to.row(i);
    if (to.stride == 1)
      for (index_t d = 0; d < to.width; ++d) x[d] += sign * row[d];
    else
      for (index_t d = 0; d < to.width; ++d) x[d * to.stride] += sign * row[d];
  }
}

/// A state, or its gradient, of one head: (key dim, value dim) of the caller as a tile; zeros where the caller has none.
template <class A>
void load_state(view<A const, 3> const& from, index_t head, index_t rows, index_t width, matrix<A> to) {
  for (index_t d = 0; d < rows; ++d) {
    index_t const count = from.data && d < from.extent(1) ? from.extent(2) : 0;
    for (index_t e = 0; e < count; ++e) to.row(d)[e] = from(head, d, e);
    std::fill(to.row(d) + count, to.row(d) + width, A(0));
  }
}
template <class A>
void store_state(matrix<A> from, view<A, 3> const& to, index_t head) {
  if (!to.data) return;
  for (index_t d = 0; d < to.extent(1); ++d)
    for (index_t e = 0; e < to.extent(2); ++e) to(head, d, e) = from.row(d)[e];
}

/// Vectors of one row: body(first column, vector) replaces each.
template <class A, class Body>
void each_vector(index_t width, Body const& body) {
  for (index_t d = 0; d < width; d += simd<A>::lanes) body(d);
}

/// The sum of lanes, by halves: simd's own adds one after the other.
template <std::size_t N, class A>
A sum_of_halves(A const* x) {
  if constexpr (N == 1) {
    return *x;
  } else {
    typedef A half __attribute__((vector_size(N / 2 * sizeof(A))));
    half a, b;
    std::memcpy(&a, x, sizeof a);
    std::memcpy(&b, x + N / 2, sizeof b);
    a += b;
    A sums[N / 2];
    std::memcpy(sums, &a, sizeof a);
    return sum_of_halves<N / 2>(sums);
  }
}
template <class A>
A sum_of(simd<A> x) {
  A lanes[simd<A>::lanes];
  x.store(lanes);
  return sum_of_halves<std::size_t(simd<A>::lanes)>(lanes);
}

/// Four rows of four become four columns of four, in registers.
template <class A>
inline void transpose_4x4(A const* from, index_t from_stride, A* to, index_t to_stride) {
  typedef A four __attribute__((vector_size(4 * sizeof(A))));
  four r[4];
  for (index_t i = 0; i < 4; ++i) std::memcpy(&r[i], from + i * from_stride, sizeof(four));
  four const a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  four const c = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  r[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  r[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  r[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  r[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
  for (index_t i = 0; i < 4; ++i) std::memcpy(to + i * to_stride, &r[i], sizeof(four));
}

/// to(columns, rows) = from(rows, columns)^T; both counts are multiples of four. Columns of `to` from `rows` to `padded` become zero.
template <class A>
void transpose(matrix<A> from, index_t rows, index_t columns, matrix<A> to, index_t padded) {
  for (index_t j = 0; j < columns; j += 4)
    for (index_t i = 0; i < rows; i += 4) transpose_4x4(from.row(i) + j, from.stride, to.row(j) + i, to.stride);
  if (padded > rows)
    for (index_t j = 0; j < columns; ++j) std::fill(to.row(j) + rows, to.row(j) + padded, A(0));
}

} // namespace SP_CPU_TARGET
} // namespace sp::detail
