// Lists of pieces as blocks of equal runs: what the host makes of them before a kernel, or a copy of the runtime, moves them.
// The bytes of the blocks, one behind the other, are those of the list read end to end.
#pragma once

#include <sp/core/piece.hpp>

namespace sp::detail {

/// Runs of contiguous bytes in up to four dimensions, the last one fastest; strides count bytes. No dimension has the extent 1, and no two
/// could be one.
struct run_block {
  std::byte* first = nullptr;
  index_t run = 0;
  int dims = 0;
  index_t extents[piece::max_rank]{}, strides[piece::max_rank]{};

  /// A piece without a list of rows, of at least one byte.
  constexpr explicit run_block(piece const& p) : first(p.data), run(p.element) {
    int d = p.rank;
    for (; d > 0; --d) { // what is contiguous becomes one run
      auto const i = std::size_t(d - 1);
      if (p.extents[i] != 1 && p.strides[i] != run) break;
      run *= p.extents[i];
    }
    for (int i = 0; i < d; ++i) add(p.extents[std::size_t(i)], p.strides[std::size_t(i)]);
  }
  /// Bytes of one index of the first dimension.
  [[nodiscard]] constexpr index_t row_bytes() const {
    index_t n = run;
    for (int d = 1; d < dims; ++d) n *= extents[d];
    return n;
  }
  [[nodiscard]] constexpr index_t bytes() const { return dims ? extents[0] * row_bytes() : run; }

  /// A part of at most `most` bytes that holds byte `at`; `at` becomes its number there.
  [[nodiscard]] constexpr run_block part(index_t& at, index_t most) const {
    run_block b = *this;
    while (b.bytes() > most) {
      if (b.dims == 0) { // a piece of the run
        index_t const skipped = at / most * most;
        b.first += skipped;
        b.run = min(most, b.run - skipped);
        at -= skipped;
        break;
      }
      index_t const bytes = b.row_bytes(), rows = max(most / bytes, 1), skipped = at / bytes / rows * rows;
      b.first += skipped * b.strides[0];
      b.extents[0] = min(rows, b.extents[0] - skipped);
      at -= skipped * bytes;
      if (b.extents[0] == 1) b.drop_first();
    }
    return b;
  }

private:
  constexpr void add(index_t extent, index_t stride) {
    if (extent == 1) return;
    if (dims > 0 && strides[dims - 1] == extent * stride) {
      extents[dims - 1] *= extent;
      strides[dims - 1] = stride;
    } else {
      extents[dims] = extent;
      strides[dims++] = stride;
    }
  }
  constexpr void drop_first() {
    --dims;
    for (int d = 0; d < dims; ++d) extents[d] = extents[d + 1], strides[d] = strides[d + 1];
  }
};

/// Walks a list of pieces block by block; starts and stops at any byte.
class block_cursor {
public:
  /// Blocks larger than this are walked in parts, whose bytes can be counted in 31 bits.
  static constexpr index_t most = index_t(1) << 30;

  constexpr explicit block_cursor(std::span<piece const> list) : list_(list) { find(); }

  [[nodiscard]] constexpr bool done() const { return at_ == list_.size(); }
  /// The block that holds the next byte, and how many of its bytes come before that one.
  [[nodiscard]] constexpr run_block block(index_t& before) const {
    before = used_;
    return whole().part(before, most);
  }
  /// At most to the end of that block.
  constexpr void advance(index_t n) {
    used_ += n;
    if (used_ < bytes_) return;
    used_ = 0;
    ++range_;
    find();
  }
  /// The piece, or range of rows, that holds the next byte.
  [[nodiscard]] constexpr run_block whole() const {
    piece p = list_[at_];
    if (!p.rows.empty()) {
      row_range const& r = p.rows[range_];
      p.data += r.first * p.strides[0];
      p.extents[0] = r.count;
      p.strides[0] *= r.step;
      p.rows = {};
    }
    return run_block(p);
  }
  /// No other one follows.
  [[nodiscard]] constexpr bool is_last() const {
    block_cursor next = *this;
    next.advance(bytes_ - used_);
    return next.done();
  }

private:
  /// The next piece, or range of rows of a piece, that holds bytes.
  constexpr void find() {
    for (; at_ < list_.size(); ++at_, range_ = 0) {
      piece const& p = list_[at_];
      if (p.bytes() == 0) continue;
      for (std::size_t const ranges = p.rows.empty() ? 1 : p.rows.size(); range_ < ranges; ++range_) {
        bytes_ = p.rows.empty() ? p.bytes() : p.bytes() / p.extents[0] * p.rows[range_].count;
        if (bytes_ > 0) return;
      }
    }
  }

  std::span<piece const> list_;
  std::size_t at_ = 0, range_ = 0;
  index_t used_ = 0, bytes_ = 0; ///< of this piece, or range of rows
};

} // namespace sp::detail
