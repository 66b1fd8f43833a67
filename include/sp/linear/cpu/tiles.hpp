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
  /// Because processors do not foresee where the next row of a head begins.
  void prefetch(index_t i) const {
    if (stride == 1)
      for (index_t d = 0; d < width; d += index_t(64 / sizeof(T))) __builtin_prefetch(row(i) + d);
  }
};

/// A tensor (rows, heads, width) of elements of whatever type, whose rows are read as sums: walks are compiled once for each type of sums.
template <class A>
struct row_reader {
  void const* data = nullptr; ///< null: not there
  std::array<index_t, 3> extents{}, strides{};
  void (*read)(row_reader const&, index_t row, index_t head, A* to) = nullptr;

  row_reader() = default;
  template <class T>
  explicit row_reader(view<T const, 3> const& v) : data(v.data), extents(v.extents), strides(v.strides), read(&read_row<T>) {}

private:
  /// Rows of other heads lie between those of one: processors do not foresee where the next begins.
  static constexpr index_t rows_ahead = 4;

  template <class T>
  static void read_row(row_reader const& r, index_t row, index_t head, A* to) {
    T const* const x = static_cast<T const*>(r.data) + row * r.strides[0] + head * r.strides[1];
    index_t const width = r.extents[2], step = r.strides[2];
    if (step != 1) {
      for (index_t d = 0; d < width; ++d) to[d] = to_acc(x[d * step]);
      return;
    }
    if (row + rows_ahead < r.extents[0])
      for (index_t d = 0; d < width; d += index_t(64 / sizeof(T))) __builtin_prefetch(x + rows_ahead * r.strides[0] + d);
    for (index_t d = 0; d < width; ++d) to[d] = to_acc(x[d]);
  }
};

/// to(i, :) = n rows of a head from `first` on, zero beyond them and beyond their width, up to `rows` and `width`.
template <class A>
void load_rows(row_reader<A> const& from, index_t first, index_t head, index_t n, index_t rows, index_t width, matrix<A> to) {
  for (index_t i = 0; i < rows; ++i) {
    index_t const count = i < n ? from.extents[2] : 0;
    if (count > 0) from.read(from, first + i, head, to.row(i));
    std::fill(to.row(i) + count, to.row(i) + width, A(0));
  }
}

/// A tensor (rows, heads, width) of elements of whatever type, into which rows of sums are written.
template <class A>
struct row_writer {
  void* data = nullptr; ///< null: not wanted
  std::array<index_t, 3> extents{}, strides{};
  void (*write)(row_writer const&, index_t row, index_t head, A const* from) = nullptr;

  row_writer() = default;
  template <class T>
  explicit row_writer(view<T, 3> const& v) : data(v.data), extents(v.extents), strides(v.strides), write(&write_row<T>) {}

private:
  template <class T>
  static void write_row(row_writer const& w, index_t row, index_t head, A const* from) {
    T* const x = static_cast<T*>(w.data) + row * w.strides[0] + head * w.strides[1];
    index_t const width = w.extents[2], step = w.strides[2];
    if (step == 1)
      for (index_t d = 0; d < width; ++d) x[d] = from_acc<T>(from[d]);
    else
      for (index_t d = 0; d < width; ++d) x[d * step] = from_acc<T>(from[d]);
  }
};

/// Writes the first n rows.
template <class A>
void store_rows(matrix<A> from, index_t n, row_writer<A> const& to, index_t first, index_t head) {
  for (index_t i = 0; i < n && to.extents[2] > 0; ++i) to.write(to, first + i, head, from.row(i));
}

/// Adds the first n rows, where they are wanted.
template <class A>
void add_rows(matrix<A> from, index_t n, head_rows<A> to) {
  if (!to.data) return;
  for (index_t i = 0; i < n; ++i) {
    A const* row = from.row(i);
    A* x = to.row(i);
    if (i + 4 < n) to.prefetch(i + 4);
    if (to.stride == 1)
      for (index_t d = 0; d < to.width; ++d) x[d] += row[d];
    else
      for (index_t d = 0; d < to.width; ++d) x[d * to.stride] += row[d];
  }
}

/// A state, or its gradient, of one head: (key dim, value dim) of the caller as a tile; zeros where the caller has none.
template <class A>
void load_state(view<A const, 3> const& from, index_t head, index_t rows, index_t width, matrix<A> to) {
  for (index_t d = 0; d < rows; ++d) {
    index_t const count = from.data && d < from.extent(1) ? from.extent(2) : 0, step = from.stride(2);
    A const* const x = count > 0 ? &from(head, d, 0) : nullptr;
    if (step == 1)
      std::copy(x, x + count, to.row(d));
    else
      for (index_t e = 0; e < count; ++e) to.row(d)[e] = x[e * step];
    std::fill(to.row(d) + count, to.row(d) + width, A(0));
  }
}
template <class A>
void store_state(matrix<A> from, view<A, 3> const& to, index_t head) {
  if (!to.data) return;
  index_t const width = to.extent(2), step = to.stride(2);
  for (index_t d = 0; d < to.extent(1); ++d) {
    A const* const row = from.row(d);
    A* const x = &to(head, d, 0);
    if (step == 1)
      std::copy(row, row + width, x);
    else
      for (index_t e = 0; e < width; ++e) x[e * step] = row[e];
  }
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
