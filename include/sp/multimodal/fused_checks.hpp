// What must fit together before a fused batch is made: samples and text, grids and visual features, the order of the features.
// Every rank holds the same numbers and refuses the same sample; nothing has been sent then.
#pragma once

#include <sp/core/group_place.hpp>
#include <sp/layout/batch.hpp>
#include <sp/layout/digests.hpp>
#include <sp/multimodal/fused_pieces.hpp>

namespace sp::detail {

inline void check_fused_place(batch const& b, group_place const& here, char const* name) {
  if (group_place const of{b.part(), b.parts()}; of != here)
    fail({errc::invalid_shape,
          std::string("the ") + name + " batch was made for " + of.text() + ", this is " + here.text() + " of the group",
          "Make the batches over the ranks of the same group"});
}

/// A document of the text for each sample.
inline void check_fused_text(std::span<splice_sample const> samples, documents const& text) {
  if (text.size() != samples.size())
    fail({errc::bad_documents,
          counted(index_t(samples.size()), "sample") + ", the text batch has " + counted(index_t(text.size()), "document"),
          "Make the text batch over the samples' token ids, a document each"});
  for (std::size_t s = 0; s < text.size(); ++s)
    if (text[s].count != index_t(samples[s].tokens.size()))
      fail({errc::bad_documents,
            "sample " + std::to_string(s) + " has " + counted(index_t(samples[s].tokens.size()), "token") +
                ", its document of the text batch " + std::to_string(text[s].count),
            "Make the text batch over the samples' token ids"});
}

/// Rows of the visual features, against those of the grids: as many, and a document (a frame, a window, a whole image) that an image
/// begins inside of holds whole images.
inline void check_fused_features(fused_pieces const& all, documents const& visual) {
  std::vector<index_t> begins{0}; // of images, among all visual rows; one more: the end
  for (visual_item const& x : all.items) begins.push_back(begins.back() + x.rows());
  auto refuse = [&](std::size_t image, std::string const& problem) {
    std::size_t s = 0;
    while (s + 1 < all.samples() && all.item_begins[s + 1] <= image) ++s;
    fail({errc::bad_documents,
          "sample " + std::to_string(s) + ": image " + std::to_string(image - all.item_begins[s]) + " " + problem,
          "Make the visual batch of the merged tokens of the same images, in the same order"});
  };
  index_t const features = visual.tokens(), rows = begins.back();
  for (std::size_t i = 0; i < all.items.size(); ++i)
    if (begins[i + 1] > features)
      refuse(i, "ends with row " + std::to_string(begins[i + 1]) + " of the grids, the visual batch has " +
                    counted(features, "row"));
  if (rows < features)
    fail({errc::bad_documents,
          (all.samples() == 0 ? std::string("no sample") : "sample " + std::to_string(all.samples() - 1) + " is the last") +
              ", the grids of all have " + counted(rows, "row") + ", the visual batch has " + std::to_string(features),
          "Make the visual batch of the merged tokens of the same images"});
  std::size_t next = 0; // the first image that begins behind `begin`, as grids and features have equally many rows by now
  for (index_t begin = 0; document const& d : visual) {
    index_t const end = begin + d.count;
    while (next < begins.size() && begins[next] <= begin) ++next;
    std::size_t last = next;
    while (last < begins.size() && begins[last] < end) ++last;
    bool const whole = begins[next - 1] == begin && last < begins.size() && begins[last] == end;
    if (last > next && !whole)
      refuse(next, "begins at row " + std::to_string(begins[next]) + " of the visual features, inside a document of " +
                       counted(d.count, "row"));
    begin = end;
  }
}

/// Every visual row has a place of its own.
inline void check_fused_order(std::span<index_t const> order, index_t rows) {
  if (order.empty()) return;
  if (index_t(order.size()) != rows)
    fail({errc::bad_documents,
          "the order names " + counted(index_t(order.size()), "row") + ", the grids have " + std::to_string(rows),
          "Pass images::merged_rows() of the same images, or nothing"});
  std::vector<char> seen(std::size_t(rows), 0);
  for (std::size_t i = 0; i < order.size(); ++i)
    if (index_t const at = order[i]; at < 0 || at >= rows || seen[std::size_t(at)]++)
      fail({errc::bad_documents,
            "entry " + std::to_string(i) + " of the order is " + std::to_string(at) + " of " + counted(rows, "row") +
                (at < 0 || at >= rows ? "" : ", as an entry before it"),
            "The order is a permutation of the visual rows"});
}

/// What ranks compare: what they were given, and what they made of it.
[[nodiscard]] inline std::uint64_t digest_of(std::span<splice_sample const> samples) {
  digest d;
  d.add(samples.size());
  for (splice_sample const& s : samples) {
    d.add(s.tokens.size()).add(s.items.size()).add(s.prompt);
    for (index_t id : s.tokens) d.add(id);
    for (visual_item const& x : s.items) d.add(x.frames).add(x.height).add(x.width).add(x.video).add(double(x.seconds));
  }
  return given(d);
}
[[nodiscard]] inline std::uint64_t digest_of(std::span<index_t const> order) {
  digest d;
  d.add(order.size());
  for (index_t i : order) d.add(i);
  return given(d);
}
[[nodiscard]] inline std::uint64_t digest_of(fused_pieces const& all, layout const& fused) {
  digest d;
  d.add(digest_of(fused)).add(all.learned);
  for (placed_piece const& p : all.list) d.add(p.at).add(p.rows.from).add(p.rows.first).add(p.rows.count).add(p.rows.step);
  for (fused_attention const& a : all.attention) d.add(a.prefix).add(a.images_both_ways);
  return given(d);
}

/// One document a sample, with the ids of the text's.
[[nodiscard]] inline documents fused_documents(fused_pieces const& all, documents const& text) {
  std::vector<document> list;
  for (std::size_t s = 0; s < all.samples(); ++s) {
    index_t const n = all.begins[s + 1] - all.begins[s];
    list.push_back({all.begins[s], n, n, text[s].id});
  }
  return {std::move(list), all.length()};
}

} // namespace sp::detail
