// One size of the multimodal bench: images of patches, the token ids that they stand in, and numbers for every row of every tensor.
// Follows from the size alone, so that every rank makes its own rows and one rank can make all.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include <sp/multimodal.hpp>

namespace multimodal {

using sp::index_t;

inline constexpr index_t heads = 4, kv_heads = 2, dim = 64,
                         width = heads * dim;                         ///< of the decoder; the tower has as many kv heads
inline constexpr index_t merge = 2, prefix = 1, largest_image = 4096; ///< in patches
inline constexpr index_t image_token = -7;

/// `tokens` patches, and a decoder's stream of as many tokens: a quarter of them are merged patches.
struct workload {
  index_t tokens;
  sp::images pictures;
  std::vector<sp::visual_item> items{};
  std::vector<index_t> ids{};

  explicit workload(index_t n) : tokens(n), pictures(grids(n), {.merge = merge}) {
    for (sp::patch_grid const& g : pictures.grids()) items.push_back({g.frames, g.height / merge, g.width / merge});
    index_t const text = n - pictures.merged_tokens(), images = index_t(items.size());
    for (index_t i = 0; i < images; ++i) { // text, image, text, image, ..., text
      ids.resize(ids.size() + std::size_t(sp::cut(text, i + 1, images + 1) - sp::cut(text, i, images + 1)), 5);
      ids.push_back(image_token);
    }
    ids.resize(std::size_t(text + images), 5);
  }
  /// Rows of class tokens: one for each image.
  index_t prefix_rows() const { return index_t(pictures.frames().size()) * prefix; }
  sp::documents text_documents() const { return sp::documents::rectangular(1, index_t(ids.size())); }

private:
  /// Two images or more, none larger than largest_image; wide and high ones in turns.
  static std::vector<sp::patch_grid> grids(index_t n) {
    index_t const of_one = sp::min(n / 2, largest_image), count = n / of_one;
    int const bits = std::countr_zero(std::uint64_t(of_one));
    index_t const low = index_t(1) << (bits - 1) / 2, high = of_one / low;
    std::vector<sp::patch_grid> list;
    for (index_t i = 0; i < count; ++i) list.push_back(i % 2 == 0 ? sp::patch_grid{1, low, high} : sp::patch_grid{1, high, low});
    return list;
  }
};

/// A number in [-1, 1] for a column of a row of a tensor.
inline double value(unsigned tensor, index_t row, index_t column) {
  std::uint64_t x = std::uint64_t(row + 1) * 0x9e3779b97f4a7c15ULL ^ std::uint64_t(column + 1) * 0xbf58476d1ce4e5b9ULL ^
                    std::uint64_t(tensor + 1) * 0x94d049bb133111ebULL;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
  return double((x ^ x >> 31) >> 11) / double(1ULL << 52) - 1;
}

} // namespace multimodal
