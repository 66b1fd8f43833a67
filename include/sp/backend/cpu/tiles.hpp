// Tiles of the CPU backend: rows and keys cut at fixed places of a document, whoever owns them and whatever the strides.
// A plan holds the tiles of either side and the slices per document, not their product: what a pair sees is found on the fly.
#pragma once

#include <algorithm>
#include <array>
#include <tuple>

#include <sp/backend/concepts.hpp>

namespace sp::detail {

inline constexpr index_t q_tile = 96, k_tile = 128; // offsets in a document that share a tile
inline constexpr index_t q_unit = 8, k_unit = 32;   // packed rows and keys of a tile are padded to these
inline constexpr index_t max_tile = 128;

/// Rows of one document with offsets [begin - origin, begin - origin + tile size): some runs, sorted by position.
struct tile {
  std::size_t first_run = 0, last_run = 0;
  std::size_t document = 0; ///< in tile_plan::documents
  index_t begin = 0;        ///< position at which the tile begins
  index_t packed_row = 0;   ///< its first row in packed memory
};

/// The queries of a plan, or its keys.
struct tile_side {
  std::vector<placed_run> runs;
  std::vector<tile> tiles; ///< sorted by document and position
  index_t packed_rows = 0; ///< of all tiles
};

/// A document that has slices, and its range of tiles on either side.
struct tile_document {
  index_t id = 0, q_origin = 0, k_origin = 0;
  index_t q_begin = 0;          ///< where its queries begin; its keys begin at k_origin
  index_t q_end = 0, k_end = 0; ///< behind the last position that a slice covers
  std::size_t first_slice = 0, last_slice = 0;
  std::size_t first_q = 0, last_q = 0, first_k = 0, last_k = 0;
};

/// What prepare() makes: data, linear in runs and slices.
struct tile_plan {
  tile_side q, k;
  std::vector<slice> slices;
  std::vector<tile_document> documents;
  std::vector<std::size_t> heavy_first; ///< all query tiles: those with most keys to meet first, so that threads end together

  std::span<slice const> slices_of(tile_document const& d) const {
    return std::span(slices).subspan(d.first_slice, d.last_slice - d.first_slice);
  }
};

/// Positions [begin, end) of a document's queries or keys.
struct document_range {
  index_t begin, end;
  std::size_t document;
};

/// Cuts runs where tiles begin, tiles of `size` positions from the begin of each document. Rows of no document are left out.
inline tile_side cut_tiles(std::span<placed_run const> table, std::vector<document_range> ranges, index_t size, index_t unit) {
  struct piece_of_tile {
    std::size_t document;
    index_t begin; // of the tile
    placed_run rows;
  };
  std::sort(ranges.begin(), ranges.end(), [](auto const& a, auto const& b) { return a.begin < b.begin; });
  std::vector<piece_of_tile> pieces;
  for (placed_run const& p : table) {
    if (p.positions.count == 0) continue;
    auto d =
        std::upper_bound(ranges.begin(), ranges.end(), p.positions.begin, [](index_t x, auto const& r) { return x < r.begin; });
    if (d != ranges.begin()) --d;
    for (; d != ranges.end() && d->begin < p.positions.end(); ++d)
      for (interval in = clip(p.positions, d->begin, d->end); in.count > 0;) {
        index_t offset = p.positions.at(in.first) - d->begin, begin = d->begin + offset / size * size;
        interval cut_here = clip(p.positions, begin, min(begin + size, d->end));
        pieces.push_back({d->document, begin, p.sub(cut_here)});
        in = {in.first + cut_here.count, in.count - cut_here.count};
      }
  }
  std::sort(pieces.begin(), pieces.end(), [](auto const& a, auto const& b) {
    return std::tuple(a.document, a.begin, a.rows.positions.begin) < std::tuple(b.document, b.begin, b.rows.positions.begin);
  });
  tile_side out;
  index_t count = 0;
  for (piece_of_tile const& p : pieces) {
    if (out.tiles.empty() || out.tiles.back().document != p.document || out.tiles.back().begin != p.begin) {
      out.packed_rows += round_up(count, unit);
      count = 0;
      out.tiles.push_back({out.runs.size(), out.runs.size(), p.document, p.begin, out.packed_rows});
    }
    out.runs.push_back(p.rows);
    out.tiles.back().last_run = out.runs.size();
    count += p.rows.positions.count;
  }
  out.packed_rows += round_up(count, unit);
  return out;
}

/// The rows of a tile in position order, and where each stands. A tile whose rows are not all at hand is packed without holes.
struct tile_rows {
  struct source {
    int tensor;
    index_t row;
  };
  index_t begin = 0;                               ///< position at which the tile begins
  index_t count = 0, padded = 0;                   ///< rows at hand, and that number rounded up to the unit
  std::array<source, max_tile> from;               ///< by packed row
  std::array<index_t, max_tile> offset_in_tile;    ///< position - begin, by packed row
  std::array<index_t, max_tile + 1> packed_before; ///< how many packed rows stand before an offset in the tile
  std::array<bool, max_tile> covered;              ///< some slice holds the row; others are never read

  index_t position(index_t i) const { return begin + offset_in_tile[std::size_t(i)]; }

  tile_rows(tile_plan const& plan, tile_side const& side, tile const& t) : begin(t.begin) {
    bool keys = &side == &plan.k;
    index_t size = keys ? k_tile : q_tile, unit = keys ? k_unit : q_unit;
    std::array<source, max_tile> by_offset;
    by_offset.fill({-1, 0});
    for (std::size_t r = t.first_run; r < t.last_run; ++r) {
      placed_run const& p = side.runs[r];
      for (index_t i = 0; i < p.positions.count; ++i) by_offset[std::size_t(p.positions.at(i) - begin)] = {p.tensor, p.row + i};
    }
    for (index_t s = 0; s < size; ++s) {
      packed_before[std::size_t(s)] = count;
      if (by_offset[std::size_t(s)].tensor < 0) continue;
      from[std::size_t(count)] = by_offset[std::size_t(s)];
      offset_in_tile[std::size_t(count)] = s;
      covered[std::size_t(count++)] = false;
    }
    packed_before[std::size_t(size)] = count;
    padded = round_up(count, unit);
    for (slice const& s : plan.slices_of(plan.documents[t.document])) {
      index_t first = max(keys ? s.k0 : s.q0, begin), last = min(keys ? s.k1 : s.q1, begin + size);
      if (first >= last) continue;
      std::fill(covered.begin() + packed_before[std::size_t(first - begin)],
                covered.begin() + packed_before[std::size_t(last - begin)], true);
    }
  }
};

/// Tiles [first, last) of a tile_side.
struct tile_interval {
  std::size_t first, last;
};

/// Among tiles [first, last), which are sorted by position: those that meet positions [a, b).
inline tile_interval tiles_meeting(std::vector<tile> const& tiles, std::size_t first, std::size_t last, index_t a, index_t b,
                                   index_t size) {
  auto at = [&](std::size_t i) { return tiles.begin() + std::ptrdiff_t(i); };
  auto lower = std::partition_point(at(first), at(last), [&](tile const& t) { return t.begin + size <= a; });
  auto upper = std::partition_point(lower, at(last), [&](tile const& t) { return t.begin < b; });
  return {std::size_t(lower - tiles.begin()), std::size_t(upper - tiles.begin())};
}

/// Key tiles that some query at positions first ... last may see; those between may still see nothing.
inline tile_interval key_tiles_near(tile_plan const& plan, tile_document const& d, index_t first, index_t last) {
  index_t a = d.k_end, b = d.k_origin;
  for (slice const& s : plan.slices_of(d)) {
    if (s.q1 <= first || s.q0 > last) continue;
    a = min(a, max(s.k0, s.lo <= -unbounded ? s.k0 : first + s.lo));
    b = max(b, min(s.k1, s.hi >= unbounded ? s.k1 : last + s.hi + 1));
  }
  return tiles_meeting(plan.k.tiles, d.first_k, d.last_k, a, b, k_tile);
}

/// Query tiles that may see some key of a key tile.
inline tile_interval query_tiles_near(tile_plan const& plan, tile_document const& d, tile_rows const& k) {
  index_t a = d.q_end, b = d.q_begin, first = k.position(0), last = k.position(k.count - 1);
  for (slice const& s : plan.slices_of(d)) {
    if (s.k1 <= first || s.k0 > last) continue;
    a = min(a, max(s.q0, s.hi >= unbounded ? s.q0 : first - s.hi));
    b = max(b, min(s.q1, s.lo <= -unbounded ? s.q1 : last - s.lo + 1));
  }
  return tiles_meeting(plan.q.tiles, d.first_q, d.last_q, a, b, q_tile);
}

/// All query tiles, largest document first, and in a document those first that meet most key tiles.
inline std::vector<std::size_t> query_tiles_by_weight(tile_plan const& plan) {
  struct weighed {
    std::size_t of_document, document, own, tile;
  };
  std::vector<weighed> list;
  for (std::size_t i = 0; i < plan.documents.size(); ++i) {
    tile_document const& d = plan.documents[i];
    std::size_t sum = 0;
    std::size_t const begin = list.size();
    for (std::size_t t = d.first_q; t < d.last_q; ++t) {
      tile_interval near = key_tiles_near(plan, d, plan.q.tiles[t].begin, plan.q.tiles[t].begin + q_tile - 1);
      list.push_back({0, i, near.last - near.first, t});
      sum += near.last - near.first;
    }
    for (std::size_t t = begin; t < list.size(); ++t) list[t].of_document = sum;
  }
  std::sort(list.begin(), list.end(), [](weighed const& a, weighed const& b) {
    return std::tuple(b.of_document, a.document, b.own, a.tile) < std::tuple(a.of_document, b.document, a.own, b.tile);
  });
  std::vector<std::size_t> out;
  for (weighed const& x : list) out.push_back(x.tile);
  return out;
}

inline tile_plan make_tiles(problem const& p) {
  tile_plan out;
  out.slices = p.mask;
  std::stable_sort(out.slices.begin(), out.slices.end(), [](slice const& a, slice const& b) { return a.document < b.document; });
  for (std::size_t i = 0; i < out.slices.size(); ++i) {
    slice const& s = out.slices[i];
    if (i == 0 || out.slices[i - 1].document != s.document)
      out.documents.push_back({s.id, s.q_origin, s.k_origin, s.q_begin, 0, 0, i, i, 0, 0, 0, 0});
    tile_document& d = out.documents.back();
    d.q_end = max(d.q_end, s.q1);
    d.k_end = max(d.k_end, s.k1);
    d.last_slice = i + 1;
  }
  std::vector<document_range> q, k;
  for (std::size_t d = 0; d < out.documents.size(); ++d) {
    q.push_back({out.documents[d].q_begin, out.documents[d].q_end, d});
    k.push_back({out.documents[d].k_origin, out.documents[d].k_end, d});
  }
  out.q = cut_tiles(p.q, std::move(q), q_tile, q_unit);
  out.k = cut_tiles(p.k, std::move(k), k_tile, k_unit);
  auto locate = [](std::vector<tile> const& tiles, std::size_t d) {
    auto r = std::equal_range(tiles.begin(), tiles.end(), tile{0, 0, d, 0, 0},
                              [](tile const& a, tile const& b) { return a.document < b.document; });
    return std::pair{std::size_t(r.first - tiles.begin()), std::size_t(r.second - tiles.begin())};
  };
  for (std::size_t d = 0; d < out.documents.size(); ++d) {
    std::tie(out.documents[d].first_q, out.documents[d].last_q) = locate(out.q.tiles, d);
    std::tie(out.documents[d].first_k, out.documents[d].last_k) = locate(out.k.tiles, d);
  }
  out.heavy_first = query_tiles_by_weight(out);
  return out;
}

} // namespace sp::detail
