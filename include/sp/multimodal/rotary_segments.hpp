// Three-dimensional rotary positions of a stream as segments: text that counts on in all three, and grids that spread from one position.
// The one rule behind multimodal_positions() and fused_batch::positions_3d(); integers of the host, no communication.
#pragma once

#include <array>
#include <vector>

#include <sp/layout/tokens.hpp>

namespace sp {

/// Where text goes on behind a grid.
enum class text_after_grid {
  largest_side,     ///< max(height, width) behind where the grid began, as transformers counts for Qwen-VL
  largest_position, ///< one behind the largest position of the grid, time included: as the paper of Qwen2-VL has it
};

namespace detail {

/// Rows [at, at + count) of a stream whose positions follow one rule.
struct rotary_segment {
  index_t at = 0, count = 0;
  index_t base = 0;              ///< the position from which they count
  index_t height = 0, width = 0; ///< of a grid; 0: text
  index_t first = 0, step = 1;   ///< rows first, first + step, ... of the grid, line by line, frame by frame
  index_t frame = 0;             ///< the frame that stands at `base`
  float time_step = 1;           ///< positions from one frame to the next

  /// (time, height, width) of the i-th of them. Time in float and cut off, as transformers computes it.
  [[nodiscard]] std::array<index_t, 3> position(index_t i) const {
    if (width == 0) return {base + i, base + i, base + i};
    index_t const row = first + i * step, frames = row / (height * width) - frame;
    index_t const time = time_step == 1 ? frames : index_t(float(frames) * time_step);
    return {base + time, base + row / width % height, base + row % width};
  }
};

/// Segments in stream order, made text by text and grid by grid.
class rotary_segments {
public:
  explicit rotary_segments(text_after_grid rule) : rule_(rule) {}

  /// Positions begin at 0 again.
  void document() { next_ = 0, open_ = false; }
  void text(index_t at, index_t count) {
    close();
    if (count > 0) list_.push_back({at, count, next_});
    next_ += count;
  }
  /// Begins a grid at the next position; its rows follow by grid_rows(). `frame` is the frame that stands there.
  void begin_grid(index_t height, index_t width, index_t frame, float time_step) {
    close();
    open_ = true;
    grid_ = {0, 0, next_, height, width, 0, 1, frame, time_step};
    side_ = max(height, width);
    largest_ = next_;
  }
  void grid_rows(index_t at, index_t first, index_t count) {
    rotary_segment s = grid_;
    s.at = at, s.first = first, s.count = count;
    for (index_t i = 0; i < count && rule_ == text_after_grid::largest_position; ++i)
      for (index_t x : s.position(i)) largest_ = max(largest_, x);
    list_.push_back(s);
  }
  /// A whole grid.
  void whole_grid(index_t at, index_t frames, index_t height, index_t width) {
    begin_grid(height, width, 0, 1);
    grid_rows(at, 0, frames * height * width);
  }

  /// Of place `at` of the stream, which lies in a segment.
  [[nodiscard]] std::array<index_t, 3> position(index_t at) const {
    std::size_t i = 0;
    for (std::size_t end = list_.size(); i + 1 < end;) {
      std::size_t const middle = i + (end - i) / 2;
      (list_[middle].at <= at ? i : end) = middle;
    }
    return list_[i].position(at - list_[i].at);
  }

private:
  void close() {
    if (open_) next_ = rule_ == text_after_grid::largest_side ? next_ + side_ : largest_ + 1;
    open_ = false;
  }

  text_after_grid rule_;
  std::vector<rotary_segment> list_;
  rotary_segment grid_{};
  index_t next_ = 0, side_ = 0, largest_ = 0;
  bool open_ = false;
};

/// Positions (rows, 3) of this rank's rows, row-major; slack rows are 0.
[[nodiscard]] inline std::vector<index_t> rotary_rows(batch const& b, rotary_segments const& segments) {
  std::vector<index_t> rows(std::size_t(b.tokens()) * 3);
  for_each_row(b, [&](local_row const& r) {
    if (!r.real) return;
    auto const p = segments.position(source_position(b, r));
    for (std::size_t axis = 0; axis < 3; ++axis) rows[std::size_t(r.row) * 3 + axis] = p[axis];
  });
  return rows;
}

template <class M>
void check_rotary_rows(batch const& b, view<index_t, 2, M> const& out, char const* primitive) {
  check_rows(b, out, primitive);
  if (out.extent(1) != 3)
    fail({errc::invalid_shape, "positions " + shape(out) + " have " + std::to_string(out.extent(1)) + " columns, not 3",
          "Give (tokens, 3): time, height, width", primitive, b.part(), b.parts()});
}

/// Numbers of the host into a tensor of a queue's memory, row-major. They may change when it returns.
template <class Q, class T, int R>
void write_rows([[maybe_unused]] Q const& q, view_on<Q, T, R> to, std::vector<T> const& from) {
  if constexpr (runs_on_host<Q>) {
    for_each_index(to.extents, copy_body<T, T const, R>{to, {from.data(), to.extents}});
  } else {
    auto upload = [&](T* there, std::size_t first, std::size_t n) {
      if (n > 0) q.upload(reinterpret_cast<std::byte*>(there), std::as_bytes(std::span(from).subspan(first, n)));
    };
    if (to.dense()) return upload(to.data, 0, from.size());
    std::size_t const width = from.empty() ? 0 : from.size() / std::size_t(to.extent(0));
    for (index_t i = 0; i < to.extent(0) && width > 0; ++i) {
      if (R == 1 || to.stride(R - 1) == 1)
        upload(&to.data[i * to.stride(0)], std::size_t(i) * width, width);
      else
        for (std::size_t c = 0; c < width; ++c)
          upload(&to.data[i * to.stride(0) + index_t(c) * to.stride(R - 1)], std::size_t(i) * width + c, 1);
    }
  }
}

} // namespace detail
} // namespace sp
