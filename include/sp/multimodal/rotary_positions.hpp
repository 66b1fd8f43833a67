// Three-dimensional rotary positions of text with pictures and videos in it: time, height and width of every row.
// As Qwen2-VL defines them; they follow from the batch and the grids, without communication.
#pragma once

#include <span>

#include <sp/multimodal/rotary_segments.hpp>

namespace sp {

/// A picture or video in the stream: frames x height x width tokens from position `begin` on.
struct vision_grid {
  index_t begin = 0, frames = 1, height = 1, width = 1;
  [[nodiscard]] constexpr index_t tokens() const { return frames * height * width; }
};

namespace detail {

/// Grids hold tokens, ascend without overlap, and stay inside their documents.
inline void check_grids(batch const& b, std::span<vision_grid const> grids) {
  auto const& docs = b.source();
  auto name = [&](std::size_t i) {
    vision_grid const& g = grids[i];
    return "grid " + std::to_string(i) + " {" + std::to_string(g.begin) + ", " + std::to_string(g.frames) + " x " +
           std::to_string(g.height) + " x " + std::to_string(g.width) + "}";
  };
  auto refuse = [&](std::string problem, char const* remedy) {
    fail({errc::invalid_shape, std::move(problem), remedy, "multimodal_positions", b.part(), b.parts()});
  };
  index_t before = 0; // the end of the grid before
  for (std::size_t i = 0; i < grids.size(); ++i) {
    vision_grid const& g = grids[i];
    if (g.frames < 1 || g.height < 1 || g.width < 1)
      refuse(name(i) + " holds no tokens", "Give frames, height and width of at least 1");
    if (i > 0 && g.begin < before)
      refuse(name(i) + " begins before the end of " + name(i - 1), "Sort grids by begin; they must not overlap");
    index_t tokens = checked_mul(checked_mul(g.frames, g.height), g.width);
    std::size_t const d = docs.at_or_before(g.begin);
    if (docs.size() == 0 || !docs[d].holds(g.begin) || tokens > docs[d].end() - g.begin)
      refuse(name(i) + " of " + std::to_string(tokens) + " tokens leaves its document",
             "A grid lies inside one document of the caller's stream");
    before = g.begin + tokens;
  }
}

} // namespace detail

/// 3-D rotary positions (tokens, 3) = (time, height, width), as Qwen2-VL defines them: text advances all three together; a grid
/// spreads over them from where the text stopped; text goes on behind the largest position used. Grids are sorted by begin. Of a stream
/// that a splice made: fused_batch::positions_3d().
inline void multimodal_positions(batch const& b, std::span<vision_grid const> grids, view<index_t, 2> out) {
  detail::check_rotary_rows(b, out, "multimodal_positions");
  detail::check_grids(b, grids);
  detail::rotary_segments segments(text_after_grid::largest_position);
  std::size_t next = 0;
  for (document const& d : b.source()) {
    segments.document();
    index_t at = d.begin;
    for (; next < grids.size() && grids[next].begin < d.end(); ++next) {
      vision_grid const& g = grids[next];
      segments.text(at, g.begin - at);
      segments.whole_grid(g.begin, g.frames, g.height, g.width);
      at = g.begin + g.tokens();
    }
    segments.text(at, d.end() - at);
  }
  detail::write_rows(inline_queue{}, out, detail::rotary_rows(b, segments));
}

} // namespace sp
