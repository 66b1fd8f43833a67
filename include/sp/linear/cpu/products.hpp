// Matrix products of the chunk walk: whole, triangular, and the triangular solve that the delta rule adds, by register tiles of their own.
// A row's result never reads what stands behind it in a triangular matrix, not even times zero, beyond its own register tile.
#pragma once

#include <utility>

#include <sp/linear/cpu/tiles.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// Vectors of the wider register tile. It is as square as registers allow, because loads are what limits a product: of four rows by four
/// vectors where there are 32 registers, otherwise that of backend/cpu. What is left of a row takes tiles of two vectors.
inline constexpr int wide_vectors = simd_bytes == 64 ? 4 : 2;
inline constexpr int wide_rows = 4;
static_assert(micro_rows % wide_rows == 0);

/// The left factor of a product: element (i, x) is data[i row + x inner].
template <class A>
struct left_factor {
  A const* data;
  index_t row, inner;
  left_factor at(index_t i, index_t x) const { return {data + i * row + x * inner, row, inner}; }
};
template <class A>
left_factor<A> plain(matrix<A> m) {
  return {m.data, m.stride, 1};
}
template <class A>
left_factor<A> transposed(matrix<A> m) {
  return {m.data, 1, m.stride};
}

/// Rows of lower triangular factors end on the diagonal, those of upper triangular ones begin there.
enum class triangle { none, lower, upper };

/// A product A B over `inner` terms.
template <class A>
struct term {
  left_factor<A> a{};
  matrix<A> b{};
  index_t inner = 0;
  triangle side = triangle::none;

  /// Of `rows` rows from i on, without what the triangle leaves out.
  term rows_from(index_t i, index_t rows) const {
    switch (side) {
    case triangle::lower:
      return {a.at(i, 0), b, min(i + rows, inner)};
    case triangle::upper:
      return {a.at(i, i), {b.row(i), b.stride}, inner - i};
    case triangle::none:
      break;
    }
    return {a.at(i, 0), b, inner};
  }
};

/// What becomes of a sum of products and of their target: C = keep o C + by o (A B), with a number for each row. No `by`: ones. No
/// `keep`: what `how` says. `old`: what stands for the C on the right.
template <class A>
struct blend {
  update how = update::overwrite;
  A const *keep = nullptr, *by = nullptr;
  matrix<A> old{};
  blend at(index_t i) const {
    return {how, keep ? keep + i : nullptr, by ? by + i : nullptr, old.data ? matrix<A>{old.row(i), old.stride} : old};
  }
};

/// Rows by Vectors sums in registers.
template <int Rows, int Vectors, class A>
struct register_tile {
  using V = simd<A>;
  using row_numbers = std::make_integer_sequence<int, Rows>;
  using vector_numbers = std::make_integer_sequence<int, Vectors>;
  V sum[std::size_t(Rows)][std::size_t(Vectors)];

  /// body(row, its sums) for each, in order.
  template <class Body>
  [[gnu::always_inline]] void each_row(Body const& body) {
    [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) { (body(I, sum[I]), ...); }
    (row_numbers{});
  }
  /// body(v) for each vector of a row.
  template <class Body>
  [[gnu::always_inline]] static void each_vector_of_row(Body const& body) {
    [&]<int... J>(std::integer_sequence<int, J...>) __attribute__((always_inline)) { (body(J), ...); }
    (vector_numbers{});
  }

  [[gnu::always_inline]] void clear() {
    each_row([&](int, V* s) __attribute__((always_inline)) {
      each_vector_of_row([&](int v) __attribute__((always_inline)) { s[v] = V(A(0)); });
    });
  }
  [[gnu::always_inline]] void load(A const* c, index_t ldc) {
    each_row([&](int i, V* s) __attribute__((always_inline)) {
      each_vector_of_row([&](int v) __attribute__((always_inline)) { s[v] = V::load(c + i * ldc + v * V::lanes); });
    });
  }
  [[gnu::always_inline]] void store(A* c, index_t ldc) {
    each_row([&](int i, V* s) __attribute__((always_inline)) {
      each_vector_of_row([&](int v) __attribute__((always_inline)) { s[v].store(c + i * ldc + v * V::lanes); });
    });
  }
  /// += A B over `inner` terms; row x of B is b + x ldb.
  [[gnu::always_inline]] void add(left_factor<A> a, A const* b, index_t ldb, index_t inner) {
    for (index_t x = 0; x < inner; ++x) {
      V right[std::size_t(Vectors)];
      each_vector_of_row([&](int v) __attribute__((always_inline)) { right[v] = V::load(b + v * V::lanes); });
      each_row([&](int i, V* s) __attribute__((always_inline)) {
        V const e(a.data[i * a.row]);
        each_vector_of_row([&](int v) __attribute__((always_inline)) { s[v] = multiply_add(e, right[v], s[v]); });
      });
      a.data += a.inner;
      b += ldb;
    }
  }
  [[gnu::always_inline]] void times(A const* by) {
    each_row([&](int i, V* s) __attribute__((always_inline)) {
      each_vector_of_row([&](int v) __attribute__((always_inline)) { s[v] = s[v] * V(by[i]); });
    });
  }
  /// += keep o C; no keep: ones.
  [[gnu::always_inline]] void add_old(A const* c, index_t ldc, A const* keep) {
    each_row([&](int i, V* s) __attribute__((always_inline)) {
      V const factor(keep ? keep[i] : A(1));
      each_vector_of_row([&](int v) __attribute__((always_inline)) {
        s[v] = multiply_add(factor, V::load(c + i * ldc + v * V::lanes), s[v]);
      });
    });
  }
};

/// One register tile of C, from column d on: the sum of two products.
template <int Rows, int Vectors, class A>
void tile_product(term<A> const& first, term<A> const& second, index_t d, matrix<A> c, blend<A> into) {
  register_tile<Rows, Vectors, A> tile;
  tile.clear();
  tile.add(first.a, first.b.data + d, first.b.stride, first.inner);
  if (second.inner > 0) tile.add(second.a, second.b.data + d, second.b.stride, second.inner);
  if (into.by) tile.times(into.by);
  matrix<A> const old = into.old.data ? into.old : c;
  if (into.how != update::overwrite) tile.add_old(old.data + d, old.stride, into.keep);
  tile.store(c.data + d, c.stride);
}

/// One register tile of a solve: Y = N (rows before it) + Y, then Y = (I - N)^-1 Y of its own rows. N is strictly lower triangular.
template <int Rows, int Vectors, class A>
void tile_solve(left_factor<A> n, A* first, index_t ldy, index_t before) {
  using V = simd<A>;
  register_tile<Rows, Vectors, A> tile;
  A* const own = first + before * ldy;
  tile.load(own, ldy);
  tile.add(n, first, ldy, before);
  left_factor<A> const diagonal = n.at(0, before);
  tile.each_row([&](int i, V* s) __attribute__((always_inline)) {
    for (int j = 0; j < i; ++j) {
      V const e(*diagonal.at(i, j).data);
      for (int v = 0; v < Vectors; ++v) s[v] = multiply_add(e, tile.sum[j][v], s[v]);
    }
  });
  tile.store(own, ldy);
}

/// The columns of a matrix from d on.
template <class A>
matrix<A> columns_from(matrix<A> m, index_t d) {
  return {m.data + d, m.stride};
}

/// The register tiles that a target is cut into: body(first row, first column, shape), wide ones first, from above.
template <int Rows, int Vectors>
struct tile_shape {
  static constexpr int rows = Rows, vectors = Vectors;
};
template <class A, class Body>
void each_tile(index_t rows, index_t width, Body const& body) {
  constexpr index_t wide = wide_vectors * simd<A>::lanes, narrow = micro_columns<A>;
  index_t d = 0;
  for (; d + wide <= width; d += wide)
    for (index_t i = 0; i < rows; i += wide_rows) body(i, d, tile_shape<wide_rows, wide_vectors>{});
  for (; d < width; d += narrow)
    for (index_t i = 0; i < rows; i += micro_rows) body(i, d, tile_shape<micro_rows, 2>{});
}

/// body(first column, width) for panels of columns, each as wide as the wide register tile: the columns of a state are independent, and
/// one panel of it stays in the first-level cache through all that a chunk does to it.
template <class A, class Body>
void each_panel(index_t width, Body const& body) {
  constexpr index_t panel = wide_vectors * simd<A>::lanes;
  for (index_t d = 0; d < width; d += panel) body(d, min(panel, width - d));
}

/// C(rows, width) = first + second, blended.
template <class A>
void product(term<A> const& first, term<A> const& second, index_t rows, index_t width, matrix<A> c, blend<A> into = {}) {
  each_tile<A>(rows, width, [&](index_t i, index_t d, auto shape) {
    constexpr int r = shape.rows;
    tile_product<r, shape.vectors>(first.rows_from(i, r), second.rows_from(i, r), d, matrix<A>{c.row(i), c.stride}, into.at(i));
  });
}
template <class A>
void product(term<A> const& only, index_t rows, index_t width, matrix<A> c, blend<A> into = {}) {
  product(only, {}, rows, width, c, into);
}

/// The lower triangle of C(rows, rows) = A(rows, inner) B(inner, rows), and some of the upper one.
template <class A>
void lower_scores(left_factor<A> a, matrix<A> b, index_t rows, index_t inner, matrix<A> c) {
  for (index_t i = 0; i < rows; i += micro_rows) {
    index_t const width = round_up(i + micro_rows, micro_columns<A>);
    product(term<A>{a.at(i, 0), b, inner}, micro_rows, width, {c.row(i), c.stride});
  }
}

/// Y(rows, width) = (I - N)^-1 Y by substitution, N strictly lower triangular.
template <class A>
void solve(left_factor<A> n, index_t rows, index_t width, matrix<A> y) {
  each_tile<A>(rows, width, [&](index_t i, index_t d, auto shape) {
    tile_solve<shape.rows, shape.vectors>(n.at(i, 0), y.data + d, y.stride, i);
  });
}

/// Y = (I - N)^-T Y: the same from the last row on.
template <class A>
void solve_transposed(matrix<A> n, index_t rows, index_t width, matrix<A> y) {
  A const* last = n.row(rows - 1) + rows - 1;
  solve(left_factor<A>{last, -1, -n.stride}, rows, width, matrix<A>{y.row(rows - 1), -y.stride});
}

} // namespace SP_CPU_TARGET
} // namespace sp::detail
