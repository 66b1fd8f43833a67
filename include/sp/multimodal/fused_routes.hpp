// The routes of a fused stream: which rows of text, visual features and learned rows go to which rank, and where they land there.
// Integers of every rank's layouts, no communication; both ends of every pair enumerate rows in the order of the fused stream.
#pragma once

#include <sp/layout/batch.hpp>
#include <sp/layout/route.hpp>
#include <sp/multimodal/fused_pieces.hpp>

namespace sp::detail {

/// The owners of all positions of a stream; nobody in gaps.
[[nodiscard]] inline std::vector<owner> owners_of(layout const& l) {
  std::vector<owner> all(std::size_t(l.docs().length()));
  for (int p = 0; p < l.parts(); ++p) {
    index_t row = 0;
    for (run const& r : l.runs(p))
      for (index_t i = 0; i < r.count; ++i) all[std::size_t(r.at(i))] = {p, row++};
  }
  return all;
}

/// Rows of one source on their way into the fused stream, and back.
class fused_source {
public:
  /// `entries`: rows of the whole source, over all ranks, by which use() counts.
  fused_source(int part, int parts, index_t entries)
      : part_(part), used_(std::size_t(entries)), sends_(std::size_t(parts)), lands_(std::size_t(parts)) {}

  /// Entry `i`, which lies at `from`, becomes the row `to`.
  void use(index_t i, owner const& from, owner const& to) {
    ++used_[std::size_t(i)];
    if (from.part == part_) sends_[std::size_t(to.part)].push_back(from.row);
    if (to.part == part_) lands_[std::size_t(from.part)].push_back(to.row);
  }
  /// No entry is used twice: gradients need no sums.
  [[nodiscard]] bool once() const {
    for (index_t n : used_)
      if (n > 1) return false;
    return true;
  }
  [[nodiscard]] route made(index_t from_rows, index_t to_rows) const {
    auto listed = [](std::vector<std::vector<index_t>> const& rows) {
      return [&rows](int p, auto&& add) {
        for (index_t r : rows[std::size_t(p)]) add(r, index_t{1}, index_t{1});
      };
    };
    return route::of_rows(part_, int(sends_.size()), from_rows, to_rows, listed(sends_), listed(lands_));
  }

private:
  int part_;
  std::vector<index_t> used_;
  std::vector<std::vector<index_t>> sends_, lands_; ///< [peer] -> rows
};

/// A way from a source into the fused stream, and back with gradients.
struct fused_way {
  route there, back;
  bool once = true;   ///< each row of the source, of any rank, is used once at most
  bool drops = false; ///< some row of it, on this rank, is not used: dropped, or slack
  fused_way() = default;
  fused_way(fused_source const& s, index_t from_rows, index_t to_rows)
      : there(s.made(from_rows, to_rows)), back(there.transposed()), once(s.once()) {
    index_t used = 0;
    for (int p = 0; p < back.size(); ++p) used += back.lands().rows(p);
    drops = used < from_rows;
  }
};

/// The position of each token of a batch, documents one behind the other, in its layout's stream.
[[nodiscard]] inline std::vector<index_t> token_positions(documents const& docs) {
  std::vector<index_t> at;
  for (document const& d : docs)
    for (index_t i = 0; i < d.count; ++i) at.push_back(d.begin + i);
  return at;
}

struct fused_ways {
  fused_way text, visual, learned;
};

/// `order`: [visual row of the step] -> row of the visual batch's tokens; empty: as they are.
[[nodiscard]] inline fused_ways ways_of(fused_pieces const& all, batch const& fused, batch const& text, batch const& visual,
                                        std::span<index_t const> order) {
  int const part = fused.part(), parts = fused.parts();
  auto const text_at = token_positions(text.docs()), visual_at = token_positions(visual.docs());
  auto const fused_owners = owners_of(fused.layout()), text_owners = owners_of(text.layout()),
             visual_owners = owners_of(visual.layout());
  fused_source from_text(part, parts, index_t(text_at.size())), from_visual(part, parts, index_t(visual_at.size())),
      from_learned(part, parts, all.learned);
  std::vector<index_t> text_begins(all.samples());
  for (std::size_t s = 1; s < all.samples(); ++s) text_begins[s] = text_begins[s - 1] + text.docs()[s - 1].count;
  for (placed_piece const& p : all.list)
    for (index_t i = 0; i < p.rows.count; ++i) {
      index_t const row = p.rows.first + i * p.rows.step;
      owner const to = fused_owners[std::size_t(fused.docs()[p.sample].begin + p.at - all.begins[p.sample] + i)];
      if (p.rows.from == row_source::learned) {
        from_learned.use(row, {to.part, row}, to);
        continue;
      }
      bool const is_text = p.rows.from == row_source::text;
      index_t entry = row + (is_text ? text_begins : all.visual_begins)[p.sample];
      if (!is_text && !order.empty()) entry = order[std::size_t(entry)];
      if (is_text)
        from_text.use(entry, text_owners[std::size_t(text_at[std::size_t(entry)])], to);
      else
        from_visual.use(entry, visual_owners[std::size_t(visual_at[std::size_t(entry)])], to);
    }
  index_t const rows = fused.tokens();
  return {{from_text, text.tokens(), rows}, {from_visual, visual.tokens(), rows}, {from_learned, all.learned, rows}};
}

/// Rows that one rank sends to others, or receives from them, along a route.
[[nodiscard]] inline index_t rows_with_others(route const& r, row_lists const& lists) {
  index_t n = 0;
  for (int p = 0; p < r.size(); ++p)
    if (p != r.place().rank) n += lists.rows(p);
  return n;
}

} // namespace sp::detail
