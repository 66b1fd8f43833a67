// LLaVA's splice: one placeholder token becomes all rows of an image, so that lengths change.
// With `newline` a learned row stands behind each line of an image. LLaVA-NeXT has that behind the lines of all tiles together: a splice of
// one's own puts the tiles of a picture beside each other.
#pragma once

#include <sp/multimodal/splice.hpp>

namespace sp::splice {

/// The k-th token `token` of a sample becomes its k-th image.
struct placeholder {
  index_t token;
  bool newline = false; ///< learned row 0 (image_newline) stands behind each line of an image

  [[nodiscard]] constexpr index_t learned_rows() const { return newline ? 1 : 0; }

  template <class Add>
  constexpr void pieces(splice_sample const& s, Add&& add) const {
    index_t marks = 0;
    for (index_t id : s.tokens) marks += id == token;
    if (marks != index_t(s.items.size()))
      refuse_sample(
          s,
          detail::counted(marks, "placeholder") + " (token " + std::to_string(token) + "), " +
              detail::counted(index_t(s.items.size()), "image"),
          "Give one placeholder for each image; for tokens that are as many as an image has rows use splice::one_to_one");
    index_t text = 0, row = 0;
    std::size_t item = 0;
    for (index_t i = 0; i < index_t(s.tokens.size()); ++i) {
      if (s.tokens[std::size_t(i)] != token) continue;
      detail::add_text(add, text, i);
      text = i + 1;
      visual_item const& image = s.items[item++];
      index_t const line = newline ? image.width : image.rows();
      for (index_t const end = row + image.rows(); row < end; row += line) {
        add(fused_piece{row_source::visual, row, line});
        if (newline) add(fused_piece{row_source::learned, 0, 1});
      }
    }
    detail::add_text(add, text, index_t(s.tokens.size()));
  }
};
static_assert(splice_rule<placeholder>);

} // namespace sp::splice
