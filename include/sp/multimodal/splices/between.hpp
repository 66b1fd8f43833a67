// The splice of Qwen2-VL and Qwen3-VL by their marks: the tokens between a start and an end mark are overwritten, the marks stay.
// A pair of marks holds a whole image or video, or one frame of a video (Qwen3-VL, whose timestamps stand between frames).
#pragma once

#include <sp/multimodal/splice.hpp>

namespace sp::splice {

/// The tokens between `start` and `end` become visual rows, as many as they are.
struct between {
  index_t start, end;

  template <class Add>
  constexpr void pieces(splice_sample const& s, Add&& add) const {
    std::size_t item = 0;
    index_t text = 0, frame = 0, row = 0;
    for (index_t i = 0; i < index_t(s.tokens.size()); ++i) {
      if (s.tokens[std::size_t(i)] == end)
        refuse_sample(s,
                      "the end mark " + std::to_string(end) + " at token " + std::to_string(i) + " has no start mark " + marks(s),
                      "Give each end mark a start mark before it");
      if (s.tokens[std::size_t(i)] != start) continue;
      index_t const inside = find_end(s, i) - i - 1;
      if (item == s.items.size()) refuse_count(s);
      visual_item const& grid = s.items[item];
      index_t const of_frame = grid.rows() / grid.frames;
      bool const whole = frame == 0 && inside == grid.rows();
      if (!whole && inside != of_frame) refuse_rows(s, item, frame, i, inside);
      detail::add_text(add, text, i + 1);
      if (inside > 0) add(fused_piece{row_source::visual, row, inside});
      text = i + 1 + inside;
      row += inside;
      frame = whole ? grid.frames : frame + 1;
      if (frame == grid.frames) ++item, frame = 0;
      i = text; // the end mark
    }
    if (item != s.items.size()) refuse_count(s);
    detail::add_text(add, text, index_t(s.tokens.size()));
  }

private:
  constexpr index_t count(splice_sample const& s, index_t id) const {
    index_t n = 0;
    for (index_t t : s.tokens) n += t == id;
    return n;
  }
  std::string marks(splice_sample const& s) const {
    return "(" + detail::counted(count(s, start), "start mark") + ", " + detail::counted(count(s, end), "end mark") + ")";
  }
  constexpr index_t find_end(splice_sample const& s, index_t from) const {
    for (index_t i = from + 1; i < index_t(s.tokens.size()) && s.tokens[std::size_t(i)] != start; ++i)
      if (s.tokens[std::size_t(i)] == end) return i;
    refuse_sample(
        s, "the start mark " + std::to_string(start) + " at token " + std::to_string(from) + " has no end mark " + marks(s),
        "Give each start mark an end mark behind it: was the sample cut inside an image?");
  }
  [[noreturn]] void refuse_count(splice_sample const& s) const {
    refuse_sample(s, detail::counted(count(s, start), "pair") + " of marks, " + detail::counted(index_t(s.items.size()), "image"),
                  "Give each image, or each frame of a video, its marks");
  }
  [[noreturn]] void refuse_rows(splice_sample const& s, std::size_t item, index_t frame, index_t at, index_t inside) const {
    visual_item const& grid = s.items[item];
    std::string const frames =
        grid.frames == 1 ? "" : ", " + std::to_string(grid.rows() / grid.frames) + " in each of its frames";
    refuse_sample(s,
                  detail::counted(inside, "token") + " between the marks at token " + std::to_string(at) + ", image " +
                      std::to_string(item) + " has " + detail::counted(grid.rows(), "row") + frames +
                      (frame > 0 ? " of which " + std::to_string(frame) + " are placed" : ""),
                  "Give as many tokens between the marks as the grid has merged tokens");
  }
};
static_assert(splice_rule<between>);

} // namespace sp::splice
