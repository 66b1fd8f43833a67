// What must fit together before a fused batch is made: samples and text, grids and visual features, the order of the features.
// Every rank holds the same numbers and refuses the same sample; nothing has been sent then.
#pragma once

#include <sp/core/group_place.hpp>
#include <sp/layout/batch.hpp>
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

/// Documents of the features (frames, windows, whole images) lie in one image, or are several whole ones; all rows have features.
inline void check_fused_features(fused_pieces const& all, documents const& visual) {
  std::size_t d = 0, sample = 0;
  index_t rows = 0, features = 0; // of the images, and of the documents, that have been passed
  auto refuse = [&](std::string const& problem) {
    fail({errc::bad_documents, "sample " + std::to_string(sample) + ": " + problem,
          "Make the visual batch of the merged tokens of the same images, in the same order"});
  };
  index_t const tokens = visual.tokens();
  for (std::size_t i = 0; i < all.items.size(); ++i) {
    while (i >= all.item_begins[sample + 1]) ++sample;
    std::string const image = "image " + std::to_string(i - all.item_begins[sample]);
    rows += all.items[i].rows();
    if (rows > tokens)
      refuse("with its " + image + " the grids have " + counted(rows, "row") + ", the visual batch has " +
             std::to_string(tokens));
    index_t const before = rows - all.items[i].rows();
    for (; d < visual.size() && features + visual[d].count <= rows; ++d) {
      if (features < before && features + visual[d].count > before && features + visual[d].count != rows)
        refuse(image + " begins at row " + std::to_string(before) + " of the visual features, inside a document of " +
               counted(visual[d].count, "row"));
      features += visual[d].count;
    }
    bool const whole_later = d < visual.size() && features <= before; // a document that holds this image may end with a later one
    if (features < rows && !whole_later)
      refuse(image + " has " + counted(all.items[i].rows(), "row") + ", a document of " + counted(visual[d].count, "row") +
             " of the visual features ends behind them");
  }
  sample = all.samples() > 0 ? all.samples() - 1 : 0;
  if (rows != tokens)
    refuse("it is the last, and the grids have " + counted(rows, "row") + ", the visual batch has " + std::to_string(tokens));
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
