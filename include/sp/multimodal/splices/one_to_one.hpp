// InternVL's splice, and that of Qwen-VL in transformers: tokens of given ids are overwritten by visual rows, one by one and in order.
// Lengths stay. Images and videos each have their own id and order.
#pragma once

#include <sp/multimodal/splice.hpp>

namespace sp::splice {

/// The tokens `image` of a sample become the rows of its images, the tokens `video` those of its videos.
struct one_to_one {
  index_t image;
  index_t video = no_token; ///< unless another id is given, videos stand in tokens `image` like images

  template <class Add>
  constexpr void pieces(splice_sample const& s, Add&& add) const {
    check(s, false, image, "image");
    if (apart()) check(s, true, video, "video");
    place still{s, false, !apart()}, moving{s, true, false};
    index_t text = 0;
    for (index_t i = 0; i < index_t(s.tokens.size()); ++i) {
      index_t const id = s.tokens[std::size_t(i)];
      bool const is_video = apart() && id == video;
      if (id != image && !is_video) continue;
      detail::add_text(add, text, i);
      text = i + 1;
      add(fused_piece{row_source::visual, (is_video ? moving : still).next(), 1});
    }
    detail::add_text(add, text, index_t(s.tokens.size()));
  }

private:
  [[nodiscard]] constexpr bool apart() const { return video != no_token && video != image; }

  /// The rows of the images, or of the videos, of a sample one by one.
  struct place {
    splice_sample const& s;
    bool videos, all;
    std::size_t item = 0;
    index_t row = 0, left = 0; ///< of the item before `item`: its next row, and how many are left

    constexpr index_t next() {
      while (left == 0) {
        visual_item const& i = s.items[item];
        if (all || i.video == videos) row = s.rows_before(item), left = i.rows();
        ++item;
      }
      --left;
      return row++;
    }
  };

  constexpr void check(splice_sample const& s, bool videos, index_t id, char const* what) const {
    index_t tokens = 0, rows = 0;
    for (index_t t : s.tokens) tokens += t == id;
    for (visual_item const& i : s.items)
      if (!apart() || i.video == videos) rows = checked_add(rows, i.rows());
    if (tokens != rows)
      refuse_sample(s,
                    detail::counted(tokens, std::string(what) + " token") + " (" + std::to_string(id) + "), its " + what +
                        "s have " + detail::counted(rows, "row"),
                    "Give as many tokens as the grids have merged tokens: the processor and the images must agree");
  }
};
static_assert(splice_rule<one_to_one>);

} // namespace sp::splice
