// Matrices of cuda_flash in shared memory, the fragments of tensor-core products, and how rows of tensors come into them.
// Pieces of 16 bytes are permuted in each row, so that eight rows of one piece lie in different banks.
#pragma once

#include <sp/backend/cuda/flash_plan.hpp>
#include <sp/cuda/block.hpp>

/// In front of loops whose body indexes registers: they must be unrolled on a device. And of loops that shall not take more registers for
/// several rounds at once.
#ifdef __CUDACC__
#define SP_UNROLL _Pragma("unroll")
#define SP_ROLLED _Pragma("unroll 1")
#define SP_UNROLL_4 _Pragma("unroll 4")
#else
#define SP_UNROLL
#define SP_ROLLED
#define SP_UNROLL_4
#endif

namespace sp::detail {

/// The offset of a row that is none: no slice shows it.
inline constexpr int flash_nowhere = std::numeric_limits<int>::max();

/// Where a row of a tile is: in a tensor (or nowhere, -1) and in its document.
struct flash_place {
  int tensor, row, offset;
};
SP_DEVICE inline flash_place place_of(flash_segment const* list, flash_tile const& t, int i) {
  if (i >= t.rows) return {-1, 0, flash_nowhere};
  int first = 0;
  for (int n = t.segments; n > 1;) { // the last segment that begins at i or before
    int const middle = n / 2;
    bool const behind = list[first + middle].begin <= i;
    first += behind ? middle : 0;
    n = behind ? n - middle : middle;
  }
  flash_segment const& s = list[first];
  return {s.tensor, s.row + (i - s.begin), s.offset + (i - s.begin) * s.stride};
}

/// The places of the rows of a tile, in shared memory.
struct flash_places {
  int *tensor, *row, *offset;

  template <class Block>
  SP_DEVICE static flash_places at(Block& b, index_t byte, int rows) {
    int* p = b.template shared<int>(byte);
    return {p, p + rows, p + rows + rows};
  }
  SP_BOTH static constexpr index_t bytes(int rows) { return index_t{12} * rows; }

  SP_DEVICE void set(int i, flash_place const& p) const {
    tensor[i] = p.tensor;
    row[i] = p.row;
    offset[i] = p.offset;
  }
  SP_DEVICE flash_place operator[](int i) const { return {tensor[i], row[i], offset[i]}; }
};

/// The stride of heads of a tensor that is one element in the place of all: how keys stand that nobody sees.
inline constexpr index_t flash_everywhere = std::numeric_limits<index_t>::min();

/// Element (i, h, d) of a tensor is data[i row + h head + d].
template <class E>
struct flash_rows {
  E* data = nullptr;
  index_t row = 0, head = 0;
  SP_DEVICE E* at(int i, int h) const { return data + i * row + h * head; }
};

/// (rows, D) of 2-byte elements in shared memory.
template <class T, int D>
struct flash_matrix {
  static constexpr int pieces = D / 8, turn = (pieces < 8 ? pieces : 8) - 1;
  static_assert(D % 16 == 0 && (pieces & turn) == 0, "sp: 16, 32, or a multiple of 64");
  T* data;

  SP_BOTH static constexpr index_t bytes(int rows) { return index_t{2} * D * rows; }
  SP_DEVICE T* piece(int row, int p) const { return data + (row * pieces + (p ^ (row & turn))) * 8; }

  /// Starts to copy rows [first, first + rows) of a head, tensor_of(number) being where they are. Rows that are nowhere and columns from
  /// `width` on become 0. Eight threads write a row's 128 bytes: all banks once.
  template <class Block, class TensorOf>
  SP_DEVICE void copy(Block& b, int first, int rows, flash_places const& places, int width, int head,
                      TensorOf const& tensor_of) const {
    SP_ROLLED
    for (int i = b.thread(); i < rows * pieces; i += b.threads()) {
      int const r = first + i / pieces, p = i % pieces, tensor = places.tensor[r];
      bool const valid = tensor >= 0 && 8 * p < width;
      flash_rows<T const> const& from = tensor_of(valid ? tensor : 0);
      if (valid && from.head == flash_everywhere)
        fill(piece(r, p), *from.data);
      else
        b.copy_async(piece(r, p), valid ? from.at(places.row[r], head) + 8 * p : from.data, valid);
    }
  }

  // Fragments of 16x16 elements; row and column are multiples of 16. The comments name the factor that they become.

  /// a: its rows are the rows of the matrix.
  template <class Block>
  SP_DEVICE void load_rows(Block& b, unsigned (&a)[4], int row, int column) const {
    b.load_matrix(a, of_lane(row, b.lane() % 16, column, b.lane() / 16));
  }
  /// a: its rows are the columns of the matrix.
  template <class Block>
  SP_DEVICE void load_columns(Block& b, unsigned (&a)[4], int row, int column) const {
    b.load_matrix_transposed(a, of_lane(row, b.lane() / 16 * 8 + b.lane() % 8, column, b.lane() / 8 % 2));
  }
  /// b, two of them: their columns are rows `row` ... of the matrix.
  template <class Block>
  SP_DEVICE void load_factor_of_rows(Block& b, unsigned (&two)[2][2], int row, int column) const {
    unsigned r[4];
    b.load_matrix(r, of_lane(row, b.lane() / 16 * 8 + b.lane() % 8, column, b.lane() / 8 % 2));
    split(two, r);
  }
  /// b, two of them: their columns are columns `column` ... of the matrix.
  template <class Block>
  SP_DEVICE void load_factor_of_columns(Block& b, unsigned (&two)[2][2], int row, int column) const {
    unsigned r[4];
    b.load_matrix_transposed(r, of_lane(row, b.lane() % 16, column, b.lane() / 16));
    split(two, r);
  }

private:
  SP_DEVICE static void fill(T* to, T x) {
    SP_UNROLL
    for (int i = 0; i < 8; ++i) to[i] = x;
  }
  /// The piece `right` (0 or 1) of columns column ... column + 15 in row `row` + `down`. What depends on the lane is apart from what is known
  /// when compiled, so that it is computed once.
  SP_DEVICE T* of_lane(int row, int down, int column, int right) const {
    int const turned = right ^ (down & turn);
    return data + (row * pieces + down * pieces) * 8 + (column / 8 ^ turned) * 8;
  }
  SP_DEVICE static void split(unsigned (&two)[2][2], unsigned const (&r)[4]) {
    two[0][0] = r[0];
    two[0][1] = r[1];
    two[1][0] = r[2];
    two[1][1] = r[3];
  }
};

/// (16 Slabs, 8 N) numbers spread over the lanes of a warp, as products leave them: [s][n][2 eight + c] is row 16 s + 8 eight + lane / 4,
/// column 8 n + 2 (lane % 4) + c.
template <int Slabs, int N>
struct flash_tile_of_sums {
  static constexpr int eights = N; ///< of columns
  float x[std::size_t(Slabs)][std::size_t(N)][4];

  SP_DEVICE void clear() {
    SP_UNROLL
    for (int s = 0; s < Slabs; ++s) {
      SP_UNROLL
      for (int n = 0; n < N; ++n) {
        SP_UNROLL
        for (int c = 0; c < 4; ++c) x[s][n][c] = 0;
      }
    }
  }

  /// += rows of a (from `row` on) times rows of `factor` (from `factor_row` on): over all D columns of both.
  template <class Block, class T, int D>
  SP_DEVICE void add_rows_by_rows(Block& b, flash_matrix<T, D> const& a, int row, flash_matrix<T, D> const& factor,
                                  int factor_row) {
    SP_UNROLL_4
    for (int k = 0; k < D; k += 16) {
      unsigned left[std::size_t(Slabs)][4];
      SP_UNROLL
      for (int s = 0; s < Slabs; ++s) a.load_rows(b, left[s], row + 16 * s, k);
      SP_UNROLL
      for (int n = 0; n < N; n += 2) {
        unsigned right[2][2];
        factor.load_factor_of_rows(b, right, factor_row + 8 * n, k);
        SP_UNROLL
        for (int s = 0; s < Slabs; ++s) {
          b.template multiply_add<T>(x[s][n], left[s], right[0]);
          b.template multiply_add<T>(x[s][n + 1], left[s], right[1]);
        }
      }
    }
  }

  /// += these sums, as elements, times columns [column, column + 8 N) of `factor`: over the 8 K columns that they have, its rows from `row` on.
  template <class Block, class T, int D, int K>
  SP_DEVICE void add_product(Block& b, flash_tile_of_sums<Slabs, K> const& left, flash_matrix<T, D> const& factor, int row,
                             int column) {
    SP_UNROLL
    for (int k = 0; k < K; k += 2) {
      unsigned a[std::size_t(Slabs)][4];
      SP_UNROLL
      for (int s = 0; s < Slabs; ++s) left.template as_factor<T>(a[s], s, k);
      SP_UNROLL
      for (int n = 0; n < N; n += 2) {
        unsigned right[2][2];
        factor.load_factor_of_columns(b, right, row + 8 * k, column + 8 * n);
        SP_UNROLL
        for (int s = 0; s < Slabs; ++s) {
          b.template multiply_add<T>(x[s][n], a[s], right[0]);
          b.template multiply_add<T>(x[s][n + 1], a[s], right[1]);
        }
      }
    }
  }

  /// Puts `value` where bit 2 n + c of `visible` is not set, in a row of this thread.
  SP_DEVICE void hide(int s, int eight, unsigned visible, float value) {
    SP_UNROLL
    for (int n = 0; n < N; ++n) {
      SP_UNROLL
      for (int c = 0; c < 2; ++c)
        if (!(visible >> (2 * n + c) & 1u)) x[s][n][2 * eight + c] = value;
    }
  }

  /// Columns 8 n ... 8 n + 15 of a slab, rounded: the first factor of a product.
  template <class T>
  SP_DEVICE void as_factor(unsigned (&a)[4], int s, int n) const {
    a[0] = packed<T>(x[s][n][0], x[s][n][1]);
    a[1] = packed<T>(x[s][n][2], x[s][n][3]);
    a[2] = packed<T>(x[s][n + 1][0], x[s][n + 1][1]);
    a[3] = packed<T>(x[s][n + 1][2], x[s][n + 1][3]);
  }
};

/// How many of some columns are computed at a time, so that their sums fit into registers beside those that stay.
constexpr int flash_at_once(int columns) { return columns % 32 == 0 ? 32 : 16; }

} // namespace sp::detail
