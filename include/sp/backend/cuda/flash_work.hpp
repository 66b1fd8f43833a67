// The work of cuda_flash: for each tile of rows the tiles of columns that it meets, in order of position, and where to mask.
// Linear in tiles and slices, not in pairs of tiles: neighbours of one kind are one range. Items with most tiles to meet come first.
#pragma once

#include <sp/backend/cuda/flash_tiles.hpp>

namespace sp::detail {

/// Tiles [first, last) of columns. Without slices every row sees every column of them; else the union of slices says who is seen.
struct flash_range {
  int first = 0, last = 0;
  int first_slice = 0, slices = 0;
};

/// What a block computes, for one head: a tile of rows against some ranges of tiles of columns.
struct flash_item {
  int tile = 0, first_range = 0, ranges = 0;
};

struct flash_work {
  std::vector<flash_item> items;
  std::vector<flash_range> ranges;
  std::vector<flash_slice> slices; ///< of rows and columns as these are
};

/// Makes the list of a direction: rows are queries and columns keys, or turned.
class flash_work_list {
public:
  flash_work_list(flash_side const& rows, flash_side const& columns, std::vector<flash_document> const& documents, bool turned)
      : rows_(rows), columns_(columns), turned_(turned) {
    for (std::size_t d = 0; d < documents.size(); ++d) {
      document_slices_.clear();
      for (flash_slice const& s : documents[d].slices) document_slices_.push_back(turned ? s.turned() : s);
      first_column_ = columns.first_tile[d], last_column_ = columns.first_tile[d + 1];
      for (int t = rows.first_tile[d]; t < rows.first_tile[d + 1]; ++t) add_item(t);
    }
    std::vector<int> weight(rows.tiles.size());
    for (flash_item const& x : work_.items)
      for (int r = x.first_range; r < x.first_range + x.ranges; ++r)
        weight[std::size_t(x.tile)] += work_.ranges[std::size_t(r)].last - work_.ranges[std::size_t(r)].first;
    std::stable_sort(work_.items.begin(), work_.items.end(), [&](flash_item const& a, flash_item const& b) {
      return weight[std::size_t(a.tile)] > weight[std::size_t(b.tile)];
    });
  }
  flash_work take() { return std::move(work_); }

private:
  /// Tiles that one slice shows to a tile of rows, wholly or in part.
  struct stretch {
    int first, last, slice; ///< slice -1: all of them to every row
  };

  /// The first tile of the document whose last (or first) offset is at or behind x.
  int first_reaching(int x, int flash_tile::*offset) const {
    auto const begin = columns_.tiles.begin();
    return int(
        std::partition_point(begin + first_column_, begin + last_column_, [&](flash_tile const& t) { return t.*offset < x; }) -
        begin);
  }

  void add_stretches(int tile, int number) {
    flash_tile const& t = rows_.tiles[std::size_t(tile)];
    flash_slice const& s = document_slices_[std::size_t(number)];
    int const r0 = std::max(t.first, s.r0), r1 = std::min(t.last, s.r1 - 1);
    if (r0 > r1) return;
    int const near = first_reaching(std::max(s.c0, r0 + s.lo), &flash_tile::last);
    int const end = first_reaching(std::min(s.c1, r1 + s.hi + 1), &flash_tile::first);
    if (near >= end) return;
    int a = end, b = end; // tiles [a, b) are seen wholly
    // Behind the rows of a tile in part stands nothing: as columns it is never seen wholly, nor are keys as rows, over which dq sums.
    if (s.r0 <= t.first && t.last < s.r1 && !(turned_ && rows_.in_part(tile))) {
      a = std::min(end, std::max(near, first_reaching(std::max(s.c0, t.last + s.lo), &flash_tile::first)));
      b = std::max(a, std::min(end, first_reaching(std::min(s.c1, t.first + s.hi + 1), &flash_tile::last)));
      while (b > a && columns_.in_part(b - 1)) --b;
    }
    if (near < a) stretches_.push_back({near, a, number});
    if (a < b) stretches_.push_back({a, b, -1});
    if (b < end) stretches_.push_back({b, end, number});
  }

  void add_item(int tile) {
    stretches_.clear();
    for (int s = 0; s < int(document_slices_.size()); ++s) add_stretches(tile, s);
    if (stretches_.empty()) return;
    edges_.clear();
    for (stretch const& x : stretches_) edges_.insert(edges_.end(), {x.first, x.last});
    std::sort(edges_.begin(), edges_.end());
    edges_.erase(std::unique(edges_.begin(), edges_.end()), edges_.end());
    flash_item item{tile, int(work_.ranges.size()), 0};
    for (std::size_t e = 0; e + 1 < edges_.size(); ++e) add_range(item, edges_[e], edges_[e + 1]);
    work_.items.push_back(item);
  }

  /// Tiles [first, last), which every stretch holds wholly or not at all.
  void add_range(flash_item& item, int first, int last) {
    seen_.clear();
    bool all = false;
    for (stretch const& x : stretches_)
      if (x.first <= first && last <= x.last) {
        if (x.slice < 0)
          all = true;
        else
          seen_.push_back(document_slices_[std::size_t(x.slice)]);
      }
    if (all) seen_.clear();
    if (!all && seen_.empty()) return;
    if (item.ranges > 0 && work_.ranges.back().last == first && same_slices(work_.ranges.back())) {
      work_.ranges.back().last = last;
      return;
    }
    work_.ranges.push_back({first, last, seen_.empty() ? 0 : place_slices(), int(seen_.size())});
    ++item.ranges;
  }
  bool same_slices(flash_range const& r) const {
    return std::equal(seen_.begin(), seen_.end(), work_.slices.begin() + r.first_slice,
                      work_.slices.begin() + r.first_slice + r.slices);
  }
  /// Where the slices at hand stand in the list; mostly they are those of the item before.
  int place_slices() {
    std::size_t const n = seen_.size(), all = work_.slices.size();
    if (all < n || !std::equal(seen_.begin(), seen_.end(), work_.slices.end() - std::ptrdiff_t(n)))
      work_.slices.insert(work_.slices.end(), seen_.begin(), seen_.end());
    return int(work_.slices.size() - n);
  }

  flash_side const &rows_, &columns_;
  bool turned_;
  int first_column_ = 0, last_column_ = 0; ///< tiles of the document
  std::vector<flash_slice> document_slices_, seen_;
  std::vector<stretch> stretches_;
  std::vector<int> edges_;
  flash_work work_;
};

} // namespace sp::detail
