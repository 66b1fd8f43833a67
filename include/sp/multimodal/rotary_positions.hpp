// Three-dimensional rotary positions of text with pictures and videos in it: time, height and width of every row.
// As Qwen2-VL defines them; they follow from the batch and the grids, without communication.
#pragma once

#include <span>

#include <sp/layout/tokens.hpp>

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
/// spreads over them from where the text stopped; text goes on behind the largest position used. Grids are sorted by begin.
inline void multimodal_positions(batch const& b, std::span<vision_grid const> grids, view<index_t, 2> out) {
  detail::check_rows(b, out, "multimodal_positions");
  if (out.extent(1) != 3)
    fail({errc::invalid_shape, "positions " + shape(out) + " have " + std::to_string(out.extent(1)) + " columns, not 3",
          "Give (tokens, 3): time, height, width", "multimodal_positions", b.part(), b.parts()});
  detail::check_grids(b, grids);
  sp::fill(out, 0);
  for_each_row(b, [&](local_row const& r) {
    if (!r.real) return;
    index_t begin = b.source()[r.document].begin, at = begin + r.offset, next = 0,
            text_from = begin; // next: position of the text at text_from
    for (vision_grid const& g : grids) {
      if (g.begin < begin || g.begin > at) continue;
      next += g.begin - text_from;
      if (at < g.begin + g.tokens()) {
        index_t i = at - g.begin;
        out(r.row, 0) = next + i / (g.height * g.width);
        out(r.row, 1) = next + i / g.width % g.height;
        out(r.row, 2) = next + i % g.width;
        return;
      }
      next += max(g.frames, max(g.height, g.width));
      text_from = g.begin + g.tokens();
    }
    for (index_t axis = 0; axis < 3; ++axis) out(r.row, axis) = next + at - text_from;
  });
}

} // namespace sp
