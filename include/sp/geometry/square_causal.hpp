// Cuts a one-sided causal block into what restricted kernels know: full rectangles and one square top-left causal block.
// At most two full blocks and one square one; together they hold exactly the pairs of the block.
#pragma once

#include <array>

#include <sp/geometry/block.hpp>

namespace sp {

/// rows == keys and row i sees keys 0..i: the causal mask every kernel has.
[[nodiscard]] constexpr bool is_square_causal(block const& b) {
  auto band = local_band(b);
  return band && b.rows == b.keys && band->hi == 0 && band->lo <= -unbounded;
}

/// At most three blocks.
struct block_pieces {
  std::array<block, 3> list{};
  std::size_t count = 0;
  constexpr std::size_t size() const noexcept { return count; }
  constexpr block const& operator[](std::size_t i) const noexcept { return list[i]; }
  constexpr block const* begin() const noexcept { return list.data(); }
  constexpr block const* end() const noexcept { return list.data() + count; }
};

/// Pieces of `b` that are full or square causal. nullopt when no such cut exists (two-sided bands, strides that disagree).
[[nodiscard]] constexpr std::optional<block_pieces> to_square_causal(block const& b) {
  auto local = local_band(b);
  if (!local || local->lo > -unbounded) return std::nullopt;
  block_pieces out;
  auto add = [&](index_t q, index_t rows, index_t k, index_t keys, bool full) {
    if (rows <= 0 || keys <= 0) return;
    block x = b;
    x.q += q;
    x.q_pos += q * b.q_stride;
    x.rows = rows;
    x.k += k;
    x.k_pos += k * b.k_stride;
    x.keys = keys;
    if (full) x.lo = -unbounded, x.hi = unbounded;
    out.list[out.count++] = x;
  };
  if (local->hi >= unbounded) {
    add(0, b.rows, 0, b.keys, true);
    return out;
  }
  index_t h = local->hi;                                                          // row i sees keys j <= i + h
  index_t first = max(0, -h);                                                     // rows before it see nothing
  index_t left = max(0, h);                                                       // keys every remaining row sees
  index_t side = max(0, min(b.rows - first, b.keys - left));                      // the square
  add(first, b.rows - first, 0, min(left, b.keys), true);                         // full, left of the square
  add(first, side, left, side, false);                                            // the square itself
  add(first + side, b.rows - first - side, left, min(side, b.keys - left), true); // full, below the square
  return out;
}

} // namespace sp
