// What a query tile sees of a key tile: nothing, everything, or a bit per pair, as the union over the document's slices.
// Found from geometry for each pair of tiles. Of keys that a few neighbouring rows leave unseen at both ends, nothing is computed.
#pragma once

#include <bit>

#include <sp/backend/cpu/simd.hpp>
#include <sp/backend/cpu/tiles.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// One bit per key of a tile.
struct key_bits {
  std::array<std::uint64_t, max_tile / 64> words{};

  /// Sets bits [a, b).
  void set(index_t a, index_t b) {
    for (index_t w = a / 64; w * 64 < b; ++w) {
      index_t first = max(a - 64 * w, 0), last = min(b - 64 * w, 64);
      std::uint64_t up_to = last == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << last) - 1;
      words[std::size_t(w)] |= up_to & (~std::uint64_t{0} << first);
    }
  }
  /// The first bit at or behind `from` that equals `value`; max_tile if there is none.
  index_t next(index_t from, bool value) const {
    for (index_t w = from / 64; w * 64 < max_tile; ++w) {
      std::uint64_t x = value ? words[std::size_t(w)] : ~words[std::size_t(w)];
      if (from > 64 * w) x &= ~std::uint64_t{0} << (from - 64 * w);
      if (x) return 64 * w + std::countr_zero(x);
    }
    return max_tile;
  }
  /// Behind the last set bit.
  index_t end() const {
    for (std::size_t w = words.size(); w-- > 0;)
      if (words[w]) return index_t(64 * (w + 1)) - std::countl_zero(words[w]);
    return 0;
  }
  /// Calls f(a, b) for every stretch of unset bits in [from, to).
  template <class F>
  void each_gap(index_t from, index_t to, F&& f) const {
    for (index_t a = next(from, false); a < to; a = next(a, false)) {
      index_t b = min(next(a, true), to);
      f(a, b);
      if (b == to) break;
      a = b;
    }
  }
};

/// The mask of a query tile against a key tile, by packed rows and keys.
struct tile_mask {
  static constexpr std::size_t row_blocks = std::size_t(q_tile / micro_rows);

  bool any = false, full = false;
  index_t rows = 0, keys = 0;
  std::array<key_bits, q_tile> bits; ///< by row; meaningless where full
  struct keys_seen {
    index_t lo = 0, hi = 0;
  };
  std::array<keys_seen, row_blocks> hull; ///< keys [lo, hi) hold all that a block of micro_rows rows sees

  tile_mask(tile_plan const& plan, tile_document const& d, tile_rows const& q, tile_rows const& k)
      : rows(q.count), keys(k.count) {
    placed_run q_all{{q.begin, q_tile, 1}, 0, 0}, k_all{{k.begin, k_tile, 1}, 0, 0};
    for_each_block(std::span<placed_run const>(&q_all, 1), std::span<placed_run const>(&k_all, 1), plan.slices_of(d),
                   [&](block const& b) { add(b, q, k); });
    if (full)
      hull.fill({0, keys});
    else if (any)
      for (std::size_t r = 0; r < row_blocks; ++r) find_hull(r);
  }

  /// Rows [first, last) of the blocks that see one of keys [j, j + n).
  std::pair<index_t, index_t> rows_seeing(index_t j, index_t n) const {
    index_t first = rows, last = 0;
    for (index_t r = 0; r * micro_rows < rows; ++r) {
      keys_seen const& h = hull[std::size_t(r)];
      if (h.lo >= j + n || h.hi <= j) continue;
      first = min(first, r * micro_rows);
      last = min((r + 1) * micro_rows, rows);
    }
    return {first, last};
  }

  /// Calls f(a, b) for the stretches of [from, to) that row i does not see.
  template <class F>
  void each_gap(index_t i, index_t from, index_t to, F&& f) const {
    if (full) {
      if (keys < to) f(max(keys, from), to);
    } else {
      bits[std::size_t(i)].each_gap(from, to, f);
    }
  }

private:
  /// A block whose rows and keys count from where the two tiles begin.
  void add(block const& b, tile_rows const& q, tile_rows const& k) {
    index_t r0 = q.packed_before[std::size_t(b.q)], r1 = q.packed_before[std::size_t(b.q + b.rows)];
    index_t c0 = k.packed_before[std::size_t(b.k)], c1 = k.packed_before[std::size_t(b.k + b.keys)];
    if (r0 == r1 || c0 == c1) return;
    if (b.is_full() && r1 - r0 == rows && c1 - c0 == keys) {
      any = full = true;
      return;
    }
    if (!any) bits.fill({});
    any = true;
    for (index_t i = r0; i < r1; ++i) {
      interval seen = b.keys_seen_by(q.offset_in_tile[std::size_t(i)] - b.q);
      if (seen.count == 0) continue;
      bits[std::size_t(i)].set(k.packed_before[std::size_t(b.k + seen.first)],
                               k.packed_before[std::size_t(b.k + seen.first + seen.count)]);
    }
  }
  void find_hull(std::size_t r) {
    keys_seen h{max_tile, 0};
    for (index_t i = index_t(r) * micro_rows; i < min(index_t(r + 1) * micro_rows, rows); ++i) {
      h.lo = min(h.lo, bits[std::size_t(i)].next(0, true));
      h.hi = max(h.hi, bits[std::size_t(i)].end());
    }
    hull[r] = h.lo < h.hi ? h : keys_seen{};
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
