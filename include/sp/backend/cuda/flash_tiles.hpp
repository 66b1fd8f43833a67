// Tiles of cuda_flash: the rows at hand of each document, in order of position, packed into tiles of a fixed number of rows.
// Where all rows of a document are at hand, tiles are cut at fixed places of it, whoever owns them; stripes fill their tiles as well.
#pragma once

#include <algorithm>
#include <tuple>

#include <sp/backend/concepts.hpp>

namespace sp::detail {

/// Offsets in a document are int on a device; with this limit on both sides sums with bounds fit.
inline constexpr index_t flash_longest = index_t{1} << 29;

/// Rows of a tile that lie in one tensor: row `row + i` of it stands at `offset + i stride` of the document. They are rows `begin + i` of
/// the tile, up to where the next segment begins. Rows that no slice covers (tensor -1) are never read, and stand as zeros.
struct flash_segment {
  int begin = 0, tensor = 0, row = 0, offset = 0, stride = 1;
  friend bool operator==(flash_segment const&, flash_segment const&) = default;
};

/// Some rows of one document.
struct flash_tile {
  int first_segment = 0, segments = 0, rows = 0;
  int first = 0, last = 0;          ///< offsets of the first row and of the last
  unsigned id_low = 0, id_high = 0; ///< of the caller's id of the document
};

/// A slice in offsets, for the rows of tiles against columns: rows [r0, r1) see columns [c0, c1) where lo <= c - r <= hi.
struct flash_slice {
  int r0 = 0, r1 = 0, c0 = 0, c1 = 0, lo = 0, hi = 0;
  /// The same seen from the columns.
  [[nodiscard]] constexpr flash_slice turned() const { return {c0, c1, r0, r1, -hi, -lo}; }
  friend bool operator==(flash_slice const&, flash_slice const&) = default;
};

/// The queries of a plan, or its keys: tiles sorted by document and offset.
struct flash_side {
  std::vector<flash_tile> tiles;
  std::vector<flash_segment> segments;
  std::vector<int> first_tile; ///< by document, and the number of tiles behind the last
  int tile_rows = 0;           ///< of a tile; the last of a document may have fewer

  [[nodiscard]] bool in_part(int tile) const { return tiles[std::size_t(tile)].rows < tile_rows; }
};

/// A document that has slices: where its rows lie in the stream, and its slices as queries see keys.
struct flash_document {
  index_t id = 0, q_origin = 0, k_origin = 0;
  index_t q_begin = 0, q_end = 0, k_end = 0; ///< its keys begin at k_origin
  std::vector<flash_slice> slices{};
};

inline int flash_offset(index_t x) {
  if (x < -flash_longest || x > flash_longest)
    fail({errc::size_overflow, "offset " + std::to_string(x) + " in a document",
          "sp::cuda_flash takes documents of at most 2^29 tokens; use another kernel, or shorter documents"});
  return int(x);
}
inline int flash_bound(index_t x) { return int(min(max(x, -2 * flash_longest), 2 * flash_longest)); }

inline std::vector<flash_document> flash_documents(std::vector<slice> const& mask) {
  std::vector<slice> sorted = mask;
  std::stable_sort(sorted.begin(), sorted.end(), [](slice const& a, slice const& b) { return a.document < b.document; });
  std::vector<flash_document> out;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    slice const& s = sorted[i];
    if (i == 0 || sorted[i - 1].document != s.document)
      out.push_back({s.id, s.q_origin, s.k_origin, s.q_begin, s.q_begin, s.k_origin});
    flash_document& d = out.back();
    d.q_end = max(d.q_end, s.q1);
    d.k_end = max(d.k_end, s.k1);
    index_t const by = s.q_origin - s.k_origin; // bounds of offsets: (k - k origin) - (q - q origin)
    auto bound = [&](index_t b) { return flash_bound(b >= unbounded || b <= -unbounded ? b : b + by); };
    d.slices.push_back({flash_offset(s.q0 - s.q_origin), flash_offset(s.q1 - s.q_origin), flash_offset(s.k0 - s.k_origin),
                        flash_offset(s.k1 - s.k_origin), bound(s.lo), bound(s.hi)});
  }
  return out;
}

/// Packs rows of a table into tiles, document by document.
class flash_packing {
public:
  flash_packing(std::vector<placed_run> const& table, std::vector<flash_document> const& documents, bool keys, int tile_rows)
      : documents_(documents), keys_(keys) {
    side_.tile_rows = tile_rows;
    for (placed_run const& p : table) cut_by_document(p);
    std::sort(pieces_.begin(), pieces_.end(), [](piece const& a, piece const& b) {
      return std::tuple(a.document, a.rows.positions.begin) < std::tuple(b.document, b.rows.positions.begin);
    });
    std::size_t i = 0;
    for (std::size_t d = 0; d < documents.size(); ++d) {
      side_.first_tile.push_back(int(side_.tiles.size()));
      find_covered(d);
      full_ = true; // the next row begins a tile
      while (i < pieces_.size() && pieces_[i].document == d) i = pack_cluster(i);
    }
    side_.first_tile.push_back(int(side_.tiles.size()));
  }
  flash_side take() { return std::move(side_); }

private:
  struct piece {
    std::size_t document;
    placed_run rows;
  };
  struct range {
    index_t begin, end;
  };

  index_t begin_of(std::size_t d) const { return keys_ ? documents_[d].k_origin : documents_[d].q_begin; }
  index_t end_of(std::size_t d) const { return keys_ ? documents_[d].k_end : documents_[d].q_end; }

  /// Documents do not overlap, and those with slices are listed in the order of the stream.
  void cut_by_document(placed_run const& p) {
    if (p.positions.count == 0) return;
    std::size_t d = 0, last = documents_.size();
    while (d < last) // the first document that ends behind the first row
      if (std::size_t const middle = d + (last - d) / 2; end_of(middle) <= p.positions.begin)
        d = middle + 1;
      else
        last = middle;
    for (; d < documents_.size() && begin_of(d) < p.positions.end(); ++d)
      if (interval const in = clip(p.positions, begin_of(d), end_of(d)); in.count > 0) pieces_.push_back({d, p.sub(in)});
  }

  /// The positions of a document that some slice covers, as disjoint ranges in order.
  void find_covered(std::size_t d) {
    covered_.clear();
    index_t const origin = keys_ ? documents_[d].k_origin : documents_[d].q_origin;
    std::vector<range> list;
    for (flash_slice const& s : documents_[d].slices)
      list.push_back({origin + (keys_ ? s.c0 : s.r0), origin + (keys_ ? s.c1 : s.r1)});
    std::sort(list.begin(), list.end(), [](range const& a, range const& b) { return a.begin < b.begin; });
    for (range const& r : list)
      if (!covered_.empty() && r.begin <= covered_.back().end)
        covered_.back().end = max(covered_.back().end, r.end);
      else
        covered_.push_back(r);
  }

  /// Packs pieces from number i on whose ranges of positions overlap; rows of interleaved pieces one by one. Returns the number behind.
  std::size_t pack_cluster(std::size_t i) {
    std::size_t last = i + 1;
    index_t end = pieces_[i].rows.positions.end();
    for (; last < pieces_.size() && pieces_[last].document == pieces_[i].document && pieces_[last].rows.positions.begin < end;
         ++last)
      end = max(end, pieces_[last].rows.positions.end());
    if (last == i + 1) {
      pack_covered(pieces_[i].document, pieces_[i].rows);
      return last;
    }
    std::vector<placed_run> single;
    for (std::size_t p = i; p < last; ++p)
      for (index_t r = 0; r < pieces_[p].rows.positions.count; ++r) single.push_back(pieces_[p].rows.sub({r, 1}));
    std::sort(single.begin(), single.end(),
              [](placed_run const& a, placed_run const& b) { return a.positions.begin < b.positions.begin; });
    for (placed_run const& r : single) pack_covered(pieces_[i].document, r);
    return last;
  }

  /// Packs rows of ascending positions, cut where slices begin and end to cover them.
  void pack_covered(std::size_t d, placed_run const& rows) {
    index_t done = 0;
    auto up_to = [&](index_t end, bool covered) {
      if (end > done) pack(d, rows.sub({done, end - done}), covered);
      done = max(done, end);
    };
    auto first =
        std::partition_point(covered_.begin(), covered_.end(), [&](range const& r) { return r.end <= rows.positions.begin; });
    for (; first != covered_.end() && done < rows.positions.count; ++first) {
      interval const in = clip(rows.positions, first->begin, first->end);
      if (first->begin >= rows.positions.end()) break;
      if (in.count == 0) continue;
      up_to(in.first, false);
      up_to(in.first + in.count, true);
    }
    up_to(rows.positions.count, false);
  }

  void pack(std::size_t d, placed_run const& rows, bool covered) {
    flash_document const& of = documents_[d];
    for (index_t done = 0; done < rows.positions.count;) {
      if (full_) {
        auto const id = static_cast<std::uint64_t>(of.id);
        side_.tiles.push_back({int(side_.segments.size()), 0, 0, 0, 0, low(id), high(id)});
        full_ = false;
      }
      flash_tile& t = side_.tiles.back();
      index_t const n = min(rows.positions.count - done, side_.tile_rows - t.rows);
      placed_run const part = rows.sub({done, n});
      append(t, part, keys_ ? of.k_origin : of.q_origin, covered);
      done += n;
      full_ = t.rows == side_.tile_rows;
    }
  }

  void append(flash_tile& t, placed_run const& rows, index_t origin, bool covered) {
    run const& p = rows.positions;
    if (rows.row + p.count > std::numeric_limits<int>::max())
      fail({errc::size_overflow, "row " + std::to_string(rows.row + p.count) + " of a tensor",
            "sp::cuda_flash takes tensors of fewer than 2^31 rows; use another kernel"});
    flash_segment s{t.rows, covered ? rows.tensor : -1, int(rows.row), flash_offset(p.begin - origin),
                    p.count > 1 ? int(min(p.stride, flash_longest)) : 1};
    int const last = flash_offset(p.last() - origin);
    if (t.rows == 0) t.first = s.offset;
    bool const joined = t.segments > 0 && join(side_.segments.back(), t.rows, s, p.count);
    if (!joined) {
      side_.segments.push_back(s);
      ++t.segments;
    }
    t.rows += int(p.count);
    t.last = last;
  }
  /// Whether `next`, of `count` rows, goes on where `s` ends, at row `at` of the tile; then s may have got its stride from it.
  static bool join(flash_segment& s, int at, flash_segment const& next, index_t count) {
    int const rows = at - s.begin, step = next.offset - (s.offset + (rows - 1) * s.stride);
    if (s.tensor != next.tensor || s.row + rows != next.row) return false;
    if ((rows > 1 && step != s.stride) || (count > 1 && step != next.stride)) return false;
    s.stride = step;
    return true;
  }

  std::vector<flash_document> const& documents_;
  bool keys_;
  std::vector<piece> pieces_;
  std::vector<range> covered_;
  bool full_ = true;
  flash_side side_;
};

} // namespace sp::detail
