// M S + B for the states of some heads, as a body for queues, whatever form M has; M^T is M with its strides exchanged.
// Each call computes a few neighbouring rows and columns of one head, so that each number is read once for several.
#pragma once

#include <sp/linear/concepts.hpp>

namespace sp::detail {

/// to = M from + b, for a tile of one head. Null `from`: to = b; null b: to = M from; `to` may be b.
template <class A, class M>
struct join_body {
  static constexpr index_t rows = 4, columns = 16;

  map_form form;
  view<A const, 3, M> m; ///< (heads, key dim, key dim) of dense maps, transposed or not, else (heads, key dim, 1); null: identity
  view<A const, 3, M> from; ///< (heads, key dim, value dim)
  view<A const, 3, M> b;    ///< (heads, key dim, value dim)
  view<A, 3, M> to;         ///< (heads, key dim, value dim)

  [[nodiscard]] std::array<index_t, 3> tiles() const {
    return {to.extent(0), ceil_div(to.extent(1), rows), ceil_div(to.extent(2), columns)};
  }
  SP_BOTH void operator()(index_t h, index_t row, index_t column) const {
    index_t const first = row * rows, left = column * columns;
    index_t const n = min(rows, to.extent(1) - first), width = min(columns, to.extent(2) - left);
    A sum[rows][columns];
    for (index_t i = 0; i < rows; ++i)
      for (index_t c = 0; c < columns; ++c) sum[i][c] = b.data && i < n && c < width ? b(h, first + i, left + c) : A(0);
    if (from.data) {
      if (form != map_form::dense)
        scaled(h, first, n, left, width, sum);
      else if (n == rows && width == columns && from.stride(2) == 1)
        whole(h, first, left, sum);
      else
        product(h, first, n, left, width, sum);
    }
    for (index_t i = 0; i < n; ++i)
      for (index_t c = 0; c < width; ++c) to(h, first + i, left + c) = sum[i][c];
  }

private:
  SP_BOTH void scaled(index_t h, index_t first, index_t n, index_t left, index_t width, A (&sum)[rows][columns]) const {
    for (index_t i = 0; i < n; ++i) {
      A const by = m.data ? m(h, first + i, 0) : A(1);
      for (index_t c = 0; c < width; ++c) sum[i][c] += by * from(h, first + i, left + c);
    }
  }
  SP_BOTH void product(index_t h, index_t first, index_t n, index_t left, index_t width, A (&sum)[rows][columns]) const {
    for (index_t j = 0; j < from.extent(1); ++j)
      for (index_t i = 0; i < n; ++i)
        for (index_t c = 0; c < width; ++c) sum[i][c] += m(h, first + i, j) * from(h, j, left + c);
  }
  /// The same with numbers of rows and columns that compilers know.
  SP_BOTH void whole(index_t h, index_t first, index_t left, A (&sum)[rows][columns]) const {
    for (index_t j = 0; j < from.extent(1); ++j) {
      A const* const x = &from(h, j, left);
      for (index_t i = 0; i < rows; ++i) {
        A const by = m(h, first + i, j);
        for (index_t c = 0; c < columns; ++c) sum[i][c] += by * x[c];
      }
    }
  }
};

/// Maps (heads, width) as join_body reads them.
template <class A, class M>
view<A const, 3, M> map_of(map_form form, view<A, 2, M> const& m, index_t key_dim, bool transposed) {
  index_t const heads = m.extent(0), s = m.stride(0);
  switch (form) {
  case map_form::dense:
    return {m.data, {heads, key_dim, key_dim}, {s, transposed ? 1 : key_dim, transposed ? key_dim : 1}};
  case map_form::diagonal:
    return {m.data, {heads, key_dim, 1}, {s, 1, 0}};
  case map_form::scalar:
    return {m.data, {heads, key_dim, 1}, {s, 0, 0}};
  case map_form::identity:
    break;
  }
  return {};
}

/// Entry i of the first dimension, and `count` heads from `first` on of it; null stays null.
template <class T, class M>
view<T, 3, M> state_at(view<T, 4, M> const& v, index_t i, index_t first, index_t count) {
  if (!v.data) return {};
  view<T, 4, M> const part = v.rows(i, 1).narrow(1, first, count);
  return {part.data, {count, v.extent(2), v.extent(3)}, {v.stride(1), v.stride(2), v.stride(3)}};
}

} // namespace sp::detail
