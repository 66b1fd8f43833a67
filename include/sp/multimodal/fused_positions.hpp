// Three-dimensional rotary positions of a fused stream: text advances all three, images and videos spread over time, height and width.
// As transformers counts for Qwen2-VL, Qwen2.5-VL (time steps) and Qwen3-VL (one grid for each frame, timestamps between them).
#pragma once

#include <sp/multimodal/fused_pieces.hpp>
#include <sp/multimodal/rotary_segments.hpp>

namespace sp {

/// How positions of a fused stream count.
struct rotary_options {
  text_after_grid text_continues = text_after_grid::largest_side;
  /// Positions in a second of video, times visual_item::seconds from frame to frame: tokens_per_second of Qwen2.5-VL. 0: each frame is
  /// one position behind the one before it.
  float time_step = 0;
  /// Each frame is a grid of its own, behind the one before it. Frames between which text stands (Qwen3-VL) always are.
  bool frames_apart = false;
};

namespace detail {

/// Rows of an item that follow each other in the stream without text or learned rows between them are one grid, from the first one's
/// frame on; learned rows count as text.
class fused_rotary {
public:
  fused_rotary(fused_pieces const& all, rotary_options options)
      : all_(all), options_(options), segments_(options.text_continues) {}

  [[nodiscard]] rotary_segments made() {
    std::size_t piece = 0;
    for (std::size_t s = 0; s < all_.samples(); ++s) {
      segments_.document();
      open_ = none;
      for (; piece < all_.list.size() && all_.list[piece].sample == s; ++piece) {
        placed_piece const& p = all_.list[piece];
        if (p.rows.from == row_source::visual)
          visual(p);
        else
          segments_.text(p.at, p.rows.count), open_ = none;
      }
    }
    return std::move(segments_);
  }

private:
  static constexpr std::size_t none = std::size_t(-1);

  /// Cuts a piece where its items end, and frames that are apart.
  void visual(placed_piece const& p) {
    item_search items(all_, p.sample);
    for (index_t i = 0; i < p.rows.count;) {
      index_t const row = p.rows.first + i * p.rows.step;
      std::size_t const item = items.item_of(row);
      visual_item const& x = all_.items[item];
      index_t const in_item = items.in_item(row), frame = in_item / (x.height * x.width);
      index_t const end = options_.frames_apart ? (frame + 1) * x.height * x.width : x.rows();
      index_t const count = p.rows.step == 1 ? min(p.rows.count - i, end - in_item) : 1;
      if (open_ != item || (options_.frames_apart && frame != frame_)) {
        float const step = options_.time_step > 0 && x.video ? options_.time_step * x.seconds : 1;
        segments_.begin_grid(x.height, x.width, frame, step);
        open_ = item, frame_ = frame;
      }
      segments_.grid_rows(p.at + i, in_item, count);
      i += count;
    }
  }

  fused_pieces const& all_;
  rotary_options options_;
  rotary_segments segments_;
  std::size_t open_ = none; ///< the item whose grid the stream stands in
  index_t frame_ = 0;
};

} // namespace detail
} // namespace sp
