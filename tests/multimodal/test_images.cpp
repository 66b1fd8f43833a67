// Images as documents: frames, windows, orders of rows, positions and merged tokens, against transformers' numbers and naive loops.
// Every batch of them is checked on 1 to 8 ranks: windows and frames give a rank the same rows, and merges stay on it.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include <sp/vision.hpp>

#include "support/failure.hpp"
#include "support/json.hpp"
#include "support/late_queue.hpp"
#include "support/row_order.hpp"
#include "support/tensors.hpp"

namespace test_images {
namespace {

using sp::documents;
using sp::errc;
using sp::images;
using sp::index_t;
using sp::patch_grid;
using support::failure_of;
using support::json;
using support::says;

std::vector<patch_grid> grids_of(json const& fixture) {
  std::vector<patch_grid> out;
  for (auto const& g : fixture["grids"].rows()) out.push_back({g[0], g[1], g[2]});
  return out;
}
std::vector<index_t> cu_seqlens(documents const& docs) {
  std::vector<index_t> out{0};
  for (auto const& d : docs) out.push_back(d.end());
  return out;
}
std::vector<std::vector<index_t>> as_rows(std::vector<std::array<index_t, 2>> const& list) {
  std::vector<std::vector<index_t>> out;
  for (auto const& p : list) out.push_back({p[0], p[1]});
  return out;
}
std::vector<patch_grid> drawn(unsigned seed, index_t merge) {
  std::mt19937 g(seed);
  auto between = [&](index_t a, index_t b) { return a + index_t(g() % std::uint64_t(b - a + 1)); };
  std::vector<patch_grid> out;
  for (index_t i = between(0, 4); i > 0; --i)
    out.push_back({g() % 3 ? 1 : between(1, 3), merge * between(1, 7), merge * between(1, 7)});
  return out;
}
bool permutation(std::vector<index_t> list) {
  std::sort(list.begin(), list.end());
  for (std::size_t i = 0; i < list.size(); ++i)
    if (list[i] != index_t(i)) return false;
  return true;
}

TEST_CASE("images: windows as transformers cuts them for Qwen2.5-VL") {
  auto const cases = json::fixture("multimodal/vision_windows.json")["cases"].items();
  for (json const& c : cases) {
    images const all(grids_of(c), {.merge = c["merge"].number(), .window = c["window"].number()});
    std::vector<index_t> units; // what the tower has, in units of the loader
    for (std::size_t row = 0; row < all.loader_rows().size(); row += std::size_t(all.grain()))
      units.push_back(all.loader_rows()[row] / all.grain());
    CHECK(units == c["window_index"].numbers());
    CHECK(all.merged_rows() == c["reverse_indices"].numbers());
    CHECK(cu_seqlens(all.windows()) == c["cu_window_seqlens"].numbers());
    CHECK(cu_seqlens(all.frames()) == c["cu_seqlens"].numbers());
    CHECK(as_rows(all.positions()) == c["positions"].rows());
  }
  CHECK(cases.size() == 18);
}

TEST_CASE("images: positions and orders of towers without windows, as transformers has them") {
  auto const cases = json::fixture("multimodal/vision_positions.json")["cases"].items();
  for (json const& c : cases) {
    images const all(grids_of(c), {.merge = c["merge"].number()});
    CHECK(as_rows(all.positions()) == c["positions"].rows());
    index_t row = 0;
    for (index_t at : all.loader_rows()) CHECK(at == row++); // no windows: the loader's order is the tower's
    for (index_t unit = 0; unit < all.merged_tokens(); ++unit) CHECK(all.merged_rows()[std::size_t(unit)] == unit);
  }
  CHECK(cases.size() == 6);
  auto const loaded = json::fixture("multimodal/vision_loader.json")["cases"].items();
  for (json const& c : loaded) {
    images const all(grids_of(c), {.merge = c["merge"].number()});
    std::vector<index_t> raster;
    for (auto const& image : c["raster_of_row"].rows()) {
      auto const first = index_t(raster.size()); // of this image
      for (index_t at : image) raster.push_back(first + at);
    }
    CHECK(all.raster_rows() == raster);
  }
  CHECK(loaded.size() == 5);
}

/// The tower's patches, written naively: of each row its image, frame, row and column.
std::vector<std::array<index_t, 4>> patches_in_order(std::vector<patch_grid> const& grids, index_t merge, index_t window) {
  std::vector<std::array<index_t, 4>> out;
  for (std::size_t i = 0; i < grids.size(); ++i)
    for (index_t t = 0; t < grids[i].frames; ++t) {
      std::vector<std::array<index_t, 8>> frame; // sorted by what says where a patch stands
      for (index_t y = 0; y < grids[i].height; ++y)
        for (index_t x = 0; x < grids[i].width; ++x) {
          index_t const side = merge * window;
          frame.push_back({window ? y / side : 0, window ? x / side : 0, y / merge, x / merge, y % merge, x % merge, y, x});
        }
      std::sort(frame.begin(), frame.end());
      for (auto const& f : frame) out.push_back({index_t(i), t, f[6], f[7]});
    }
  return out;
}

TEST_CASE("images: every order follows from where a patch stands, for drawn batches, merges 1 to 3 and windows 0 to 4 [asan]") {
  index_t rows = 0, empty = 0, many = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    index_t const merge = 1 + seed % 3, window = seed / 3 % 5;
    auto const grids = drawn(seed, merge);
    images const all(grids, {.merge = merge, .window = window});
    auto const want = patches_in_order(grids, merge, window);
    std::vector<index_t> first{0}; // of each image
    for (auto const& g : grids) first.push_back(first.back() + g.frames * g.height * g.width);
    REQUIRE(all.patches() == index_t(want.size()));
    REQUIRE(permutation(all.raster_rows()));
    REQUIRE(permutation(all.loader_rows()));
    REQUIRE(permutation(all.merged_rows()));
    CHECK(all.merged_tokens() * merge * merge == all.patches());
    auto const positions = all.positions();
    for (std::size_t row = 0; row < want.size(); ++row) {
      auto const [i, t, y, x] = want[row];
      auto const& g = grids[std::size_t(i)];
      index_t const frame = first[std::size_t(i)] + t * g.height * g.width, columns = g.width / merge;
      index_t const unit = y / merge * columns + x / merge; // of the frame, in raster order
      CHECK(all.raster_rows()[row] == frame + y * g.width + x);
      CHECK(all.loader_rows()[row] == frame + unit * merge * merge + y % merge * merge + x % merge);
      CHECK(all.merged_rows()[std::size_t(frame / (merge * merge) + unit)] == index_t(row) / (merge * merge));
      CHECK(positions[row] == std::array<index_t, 2>{y, x});
      std::size_t const d = all.frames().at_or_before(index_t(row)), w = all.windows().at_or_before(index_t(row));
      CHECK(all.frames()[d].begin == frame);
      CHECK(all.frames()[d].count == g.height * g.width);
      CHECK(all.windows()[w].begin >= frame); // a window lies within its frame
      CHECK(all.windows()[w].end() <= frame + g.height * g.width);
      auto const& head = want[std::size_t(all.windows()[w].begin)];
      index_t const side = window ? merge * window : 1000;
      CHECK((y / side == head[2] / side && x / side == head[3] / side));
      ++rows;
    }
    for (std::size_t i = 0; i < grids.size(); ++i) CHECK(all.merged_tokens(i) == grids[i].patches() / merge / merge);
    if (window == 0) CHECK(all.windows() == all.frames());
    for (std::size_t d = 0; d < all.windows().size(); ++d) CHECK(all.windows()[d].id == index_t(d));
    empty += grids.empty();
    many += all.windows().size() > all.frames().size();
  }
  CHECK(rows > 5000);
  CHECK(empty > 3);
  CHECK(many > 10);
}

TEST_CASE("images: windows and frames are two batches over the same rows, and merges stay on the rank that has their patches") {
  index_t units = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    images const all(drawn(seed, 2), {.merge = 2, .window = 1 + index_t(seed % 4)});
    for (int parts = 1; parts <= 8; ++parts)
      for (int p = 0; p < parts; ++p) {
        sp::grained const how{sp::contiguous{}, all.grain()};
        sp::batch const frames(all.frames(), how, p, parts), windows(all.windows(), how, p, parts);
        CHECK(std::vector<sp::run>(frames.runs().begin(), frames.runs().end()) ==
              std::vector<sp::run>(windows.runs().begin(), windows.runs().end()));
        CHECK(sp::tower_rows(all, frames) == sp::tower_rows(all, windows));
        sp::batch const tokens = sp::merged(frames, all.grain());
        CHECK(tokens.tokens() * all.grain() == frames.tokens());
        CHECK(sp::merged(windows, all.grain()).tokens() == tokens.tokens());
        auto const rows = sp::tower_rows(all, frames);
        std::vector<index_t> at(std::size_t(tokens.tokens()));
        sp::positions(tokens, support::tensor<1>(at, {tokens.tokens()}), sp::positions_in::stream);
        for (index_t i = 0; i < tokens.tokens(); ++i, ++units)
          for (index_t j = 0; j < all.grain(); ++j)
            CHECK(rows[std::size_t(i * all.grain() + j)] == at[std::size_t(i)] * all.grain() + j);
      }
  }
  CHECK(units > 1000);
}

TEST_CASE("patch_positions: of a rank's rows, with prefix rows, slack, any order of rows and strided tensors [asan]") {
  images const all({{1, 4, 6}, {2, 2, 4}}, {.merge = 2, .window = 1});
  auto const want = all.positions();
  std::vector<sp::document> list; // two prefix rows before the patches of each frame
  index_t end = 0;
  for (auto const& d : all.frames()) list.push_back({end, d.count + 2, d.count + 2, d.id}), end += d.count + 2;
  documents const with_prefix(list, end);
  index_t prefixes = 0, slack = 0, patches = 0;
  auto check = [&](sp::batch const& b, index_t prefix) {
    std::vector<index_t> out(std::size_t(b.tokens() * 3), -9);
    sp::patch_positions(all, b, sp::view<index_t, 2>(out.data(), {b.tokens(), 2}, {3, 1}), prefix);
    auto const rows = sp::tower_rows(all, b, prefix);
    sp::for_each_row(b, [&](sp::local_row const& r) {
      std::size_t const i = std::size_t(r.row);
      std::array<index_t, 2> const found{out[3 * i], out[3 * i + 1]};
      CHECK(out[3 * i + 2] == -9);
      if (r.real && r.offset >= prefix) {
        index_t const row = all.frames()[r.document].begin + r.offset - prefix;
        CHECK(rows[i] == row);
        CHECK(found == want[std::size_t(row)]);
        ++patches;
      } else {
        CHECK(rows[i] == -1);
        CHECK(found == std::array<index_t, 2>{});
        ++(r.real ? prefixes : slack);
      }
    });
  };
  for (int p = 0; p < 3; ++p) {
    check({all.frames(), sp::grained{sp::striped{}, 4}, p, 3}, 0);
    check({all.frames(), sp::grained{sp::zigzag{}, 4}, p, 3, {sp::shapes::padded}}, 0);
    check(support::shuffled(sp::batch(with_prefix, sp::zigzag{}, p, 3), 5), 2);
    check({with_prefix, sp::grained{sp::contiguous{sp::scope::document}, 4, 2}, p, 3}, 2);
  }
  CHECK(patches == 4 * 40);
  CHECK(prefixes == 2 * 6);
  CHECK(slack > 0);
  sp::batch const other(sp::packed{0, 24, 40}, sp::contiguous{}, 1, 3);
  CHECK(says(failure_of([&] { return sp::tower_rows(all, other); }), errc::bad_documents, "2 documents", "3 frames"));
  sp::batch const frames(all.frames(), sp::contiguous{}, 1, 3);
  CHECK(says(failure_of([&] { return sp::tower_rows(all, frames, 1); }), errc::bad_documents, "1 prefix"));
  std::vector<index_t> out(100);
  CHECK(says(failure_of([&] {
               return sp::patch_positions(all, frames, {out.data(), {frames.tokens(), 3}}), 0;
             }),
             errc::invalid_shape, "3 columns"));
  CHECK(says(failure_of([&] {
               return sp::patch_positions(all, frames, {out.data(), {2, 2}}), 0;
             }),
             errc::invalid_shape, "2 rows"));
}

TEST_CASE("patch_positions: on a queue that works late, in memory that the host must not touch [asan]") {
  images const all({{1, 4, 6}, {2, 2, 4}}, {.merge = 2, .window = 1});
  sp::batch const b(all.windows(), sp::grained{sp::contiguous{}, 4}, 1, 3);
  std::vector<index_t> want(std::size_t(b.tokens() * 2));
  sp::patch_positions(all, b, support::tensor<2>(want, {b.tokens(), 2}));
  for (unsigned seed = 0; seed < 4; ++seed) {
    support::late_queue const q(seed);
    support::elsewhere_pool pool(q);
    support::elsewhere_tensor<index_t, 2> out(pool, {b.tokens(), 2});
    sp::patch_positions(q, all, b, *out);
    CHECK(sp::read(q, sp::view<index_t const, 1, support::elsewhere>(out->data, {b.tokens() * 2})) == want);
  }
}

TEST_CASE("images: none at all, and grids that are refused with the image and both numbers") {
  images const none;
  CHECK(none.patches() == 0);
  CHECK(none.merged_tokens() == 0);
  CHECK(none.frames().size() == 0);
  CHECK(none.windows().size() == 0);
  CHECK(sp::merged(sp::batch(none.frames(), sp::grained{sp::contiguous{}, 4}, 2, 3), 4).tokens() == 0);
  auto refused = [](std::vector<patch_grid> grids, sp::image_options options) {
    return failure_of([&] { return images(grids, options); });
  };
  CHECK(says(refused({{1, 4, 4}, {1, 6, 7}}, {.merge = 2}), errc::invalid_shape, "image 1", "6 x 7", "2 x 2"));
  CHECK(says(refused({{1, 4, 4}, {1, 4, 9}}, {.merge = 3}), errc::invalid_shape, "image 0", "4 x 4", "3 x 3"));
  CHECK(says(refused({{0, 4, 4}}, {}), errc::invalid_shape, "image 0", "empty"));
  CHECK(says(refused({{1, 0, 4}}, {.merge = 2}), errc::invalid_shape, "empty"));
  CHECK(says(refused({{1, 4, -2}}, {.merge = 2}), errc::invalid_shape, "empty"));
  CHECK(says(refused({{1, 4, 4}}, {.merge = 0}), errc::invalid_shape, "merge of 0"));
  CHECK(says(refused({{1, 4, 4}}, {.window = -1}), errc::invalid_shape, "window of -1"));
  CHECK(refused({{index_t{1} << 40, index_t{1} << 20, index_t{1} << 20}}, {}).code == errc::size_overflow);
}

} // namespace
} // namespace test_images
