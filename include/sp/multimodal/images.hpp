// Images as documents: the geometry of a batch of patch grids of any sizes: frames, windows, orders of rows, positions, merged tokens.
// Pure integers that follow from the grids, the same on every rank; nothing here knows of ranks but the functions that take a batch.
#pragma once

#include <array>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sp/layout/tokens.hpp>

namespace sp {

/// An image or video as a vision tower sees it: frames x height x width patches. A tile or a thumbnail is an image of its own.
struct patch_grid {
  index_t frames = 1, height = 1, width = 1;
  [[nodiscard]] constexpr index_t patches() const { return checked_mul(checked_mul(frames, height), width); }
  friend constexpr bool operator==(patch_grid const&, patch_grid const&) = default;
};

/// What the tower and its projection do with patches. One value for all images of a batch.
struct image_options {
  index_t merge = 1; ///< merge x merge patches become one token (Qwen-VL, pixel shuffle: 2); heights and widths are its multiples
  index_t window = 0; ///< side of an attention window in merged tokens (Qwen2.5-VL: 4), ragged at the edges; 0: no windows
};

/// A batch of images of native resolutions, none included. Tower rows are patches in the order in which the tower has them: image by
/// image, frame by frame; inside a frame units of merge x merge patches, row by row, or window by window and row by row inside a window;
/// inside a unit patches row by row. A frame is a document. Windows are documents of the same rows, so that layers with windows and
/// layers without have two packed batches, contiguous over the stream, and no layer moves a row. invalid_shape for a grid without patches
/// and for one that the merge does not divide.
class images {
public:
  explicit images(std::vector<patch_grid> grids, image_options options = {}) : grids_(std::move(grids)), options_(options) {
    check();
    std::vector<document> frames, windows;
    index_t first = 0; // tower row
    for (patch_grid const& g : grids_)
      for (index_t t = 0; t < g.frames; ++t) {
        frames.push_back({first, g.height * g.width, g.height * g.width, index_t(frames.size())});
        add_frame(g, first, windows);
        first += g.height * g.width;
      }
    frames_ = {std::move(frames), first};
    if (options_.window > 0) windows_ = {std::move(windows), first};
  }
  images() : images(std::vector<patch_grid>{}) {}

  [[nodiscard]] std::span<patch_grid const> grids() const noexcept { return grids_; }
  [[nodiscard]] std::size_t size() const noexcept { return grids_.size(); }
  [[nodiscard]] image_options const& options() const noexcept { return options_; }
  /// Patches of one token behind the projection: what patches are cut by, grained{your sharding, images.grain()}.
  [[nodiscard]] index_t grain() const noexcept { return options_.merge * options_.merge; }
  /// Rows of the tower.
  [[nodiscard]] index_t patches() const noexcept { return frames_.length(); }
  /// Rows of the projection, of all images or of one.
  [[nodiscard]] index_t merged_tokens() const noexcept { return patches() / grain(); }
  [[nodiscard]] index_t merged_tokens(std::size_t image) const { return grids_[image].patches() / grain(); }

  /// A document for each frame, over tower rows; ids count the frames of the batch. Dropout is keyed by ids: where data is split, give
  /// frames those of the whole, frames().with_ids(...).
  [[nodiscard]] documents const& frames() const noexcept { return frames_; }
  /// A document for each window, over the same rows; ids count the windows of the batch. Without windows: the frames.
  [[nodiscard]] documents const& windows() const noexcept { return options_.window > 0 ? windows_ : frames_; }

  /// [tower row] -> the row of the same patch where patches stand in raster order: image, frame, row, column. How CLIP, SigLIP and
  /// InternViT have them, and whoever cuts pixels by hand: what is loaded is permuted by it once.
  [[nodiscard]] std::vector<index_t> const& raster_rows() const noexcept { return raster_rows_; }
  /// [tower row] -> the row of the same patch as image processors of Qwen-VL give them: frame, height / merge, width / merge, merge, merge.
  [[nodiscard]] std::vector<index_t> const& loader_rows() const noexcept { return loader_rows_; }
  /// [merged token in raster order: image, frame, row, column] -> the unit of the tower (tower row / grain) that becomes it. A splice
  /// takes tokens in this order, and so undoes that of windows.
  [[nodiscard]] std::vector<index_t> const& merged_rows() const noexcept { return merged_rows_; }

  /// [tower row] -> (row, column) of the patch in its frame: two-dimensional rotary positions, as Qwen-VL's towers have them.
  [[nodiscard]] std::vector<std::array<index_t, 2>> positions() const {
    std::vector<std::array<index_t, 2>> out;
    out.reserve(raster_rows_.size());
    std::size_t row = 0;
    for (patch_grid const& g : grids_)
      for (index_t t = 0, n = g.height * g.width; t < g.frames; ++t) {
        index_t const begin = index_t(row);
        for (; index_t(row) < begin + n; ++row) {
          index_t const at = raster_rows_[row] - begin; // frames have the same rows in both orders
          out.push_back({at / g.width, at % g.width});
        }
      }
    return out;
  }

private:
  void check() const {
    auto refuse = [](std::string problem, char const* remedy) {
      fail({errc::invalid_shape, std::move(problem), remedy, "images"});
    };
    if (options_.merge < 1 || options_.window < 0)
      refuse("a merge of " + std::to_string(options_.merge) + " and a window of " + std::to_string(options_.window),
             "Give a merge of at least 1, and a window of at least 1 or 0 for none");
    static_cast<void>(checked_mul(options_.merge, options_.merge));
    for (index_t i = 0, all = 0; i < index_t(grids_.size()); ++i) {
      patch_grid const& g = grids_[std::size_t(i)];
      std::string const name = "image " + std::to_string(i) + " of " + std::to_string(g.frames) + " x " +
                               std::to_string(g.height) + " x " + std::to_string(g.width) + " patches";
      if (g.frames < 1 || g.height < 1 || g.width < 1)
        refuse(name + " is empty", "Leave out images without patches; a batch may have no image at all");
      if (g.height % options_.merge != 0 || g.width % options_.merge != 0)
        refuse(name + " does not divide into merges of " + std::to_string(options_.merge) + " x " +
                   std::to_string(options_.merge),
               "Resize images to multiples of the merge, as image processors do");
      all = checked_add(all, g.patches());
    }
  }

  /// The rows of one frame, whose first row and first patch in raster order is `first`.
  void add_frame(patch_grid const& g, index_t first, std::vector<document>& windows) {
    index_t const m = options_.merge, rows = g.height / m, columns = g.width / m; // in units
    index_t const side_h = options_.window > 0 ? min(options_.window, rows) : rows,
                  side_w = options_.window > 0 ? min(options_.window, columns) : columns;
    auto const unit = std::size_t(first / grain()); // of the frame, in the tower and in raster order
    merged_rows_.resize(unit + std::size_t(rows * columns));
    for (index_t top = 0; top < rows; top += side_h)
      for (index_t left = 0; left < columns; left += side_w) {
        index_t const h = min(side_h, rows - top), w = min(side_w, columns - left), n = h * w * grain();
        windows.push_back({index_t(raster_rows_.size()), n, n, index_t(windows.size())});
        for (index_t i = 0; i < h * w; ++i) {
          index_t const row = top + i / w, column = left + i % w, at = row * columns + column;
          merged_rows_[unit + std::size_t(at)] = index_t(raster_rows_.size()) / grain();
          for (index_t p = 0; p < grain(); ++p) {
            raster_rows_.push_back(first + (row * m + p / m) * g.width + column * m + p % m);
            loader_rows_.push_back(first + at * grain() + p);
          }
        }
      }
  }

  std::vector<patch_grid> grids_;
  image_options options_;
  documents frames_, windows_;
  std::vector<index_t> raster_rows_, loader_rows_, merged_rows_;
};

namespace detail {
/// Integers that the host made, into a tensor of a queue's memory: rows.size() x N.
template <class Q, std::size_t N>
void upload_rows(Q const& q, std::vector<std::array<index_t, N>> const& rows, view_on<Q, index_t, 2> const& to) {
  auto send = [&q](index_t* there, std::span<index_t const> numbers) {
    q.upload(reinterpret_cast<std::byte*>(there), std::as_bytes(numbers));
  };
  if (rows.empty()) return;
  if (to.dense()) return send(to.data, {rows.data()->data(), rows.size() * N});
  for (std::size_t r = 0; r < rows.size(); ++r)
    for (std::size_t c = 0; c < N; ++c) send(to.data + to.offset(r, c), {&rows[r][c], 1});
}
} // namespace detail

/// [local row] -> tower row, of a batch over images.frames() or images.windows(), or over documents that have `prefix` rows before the
/// patches of each; -1 for prefix rows and slack. What a rank loads: pixels of images.raster_rows()[row] or loader_rows()[row].
/// bad_documents for a batch of other rows.
[[nodiscard]] inline std::vector<index_t> tower_rows(images const& of, batch const& b, index_t prefix = 0) {
  documents const& docs = b.source();
  auto matches = [&](documents const& patches) {
    if (docs.size() != patches.size()) return false;
    for (std::size_t d = 0; d < docs.size(); ++d)
      if (docs[d].count != patches[d].count + prefix) return false;
    return true;
  };
  documents const* patches = matches(of.frames()) ? &of.frames() : matches(of.windows()) ? &of.windows() : nullptr;
  if (!patches)
    fail({errc::bad_documents,
          "the batch has " + std::to_string(docs.size()) + " documents of " + std::to_string(docs.tokens()) +
              " rows in all, the images " + std::to_string(of.frames().size()) + " frames of " + std::to_string(of.patches()) +
              " patches, with " + std::to_string(prefix) + " prefix rows each",
          "Make the batch over images.frames() or images.windows()", "tower_rows", b.part(), b.parts()});
  std::vector<index_t> rows(std::size_t(b.tokens()), -1);
  for_each_row(b, [&](local_row const& r) {
    if (r.real && r.offset >= prefix) rows[std::size_t(r.row)] = (*patches)[r.document].begin + r.offset - prefix;
  });
  return rows;
}

/// (row, column) in its frame of each patch of this rank: two-dimensional rotary positions. out: (batch.tokens(), 2); prefix rows and
/// slack get (0, 0), which rotates nothing. The batch and `prefix` as tower_rows() takes them.
template <queue Q>
void patch_positions(Q const& q, images const& of, batch const& b, detail::view_on<Q, index_t, 2> out, index_t prefix = 0) {
  detail::check_rows(b, out, "patch_positions");
  if (out.extent(1) != 2)
    fail({errc::invalid_shape, "positions " + shape(out) + " have " + std::to_string(out.extent(1)) + " columns, not 2",
          "Give (batch.tokens(), 2): row and column", "patch_positions", b.part(), b.parts()});
  auto const all = of.positions();
  std::vector<std::array<index_t, 2>> mine;
  for (index_t row : tower_rows(of, b, prefix)) mine.push_back(row < 0 ? std::array<index_t, 2>{} : all[std::size_t(row)]);
  detail::upload_rows(q, mine, out);
}
inline void patch_positions(images const& of, batch const& b, view<index_t, 2> out, index_t prefix = 0) {
  sp::patch_positions(inline_queue{}, of, b, out, prefix);
}

} // namespace sp
