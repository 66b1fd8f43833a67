// Splices as integers: what each says of a sample, what it refuses, masks, and what transformers computes for the models they come from.
// Fixtures: tests/fixtures/multimodal/record_fixtures.py.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>

#include <sp/collective/solo.hpp>
#include <sp/threads.hpp>
#include <sp/vision.hpp>

#include "multimodal/fused_cases.hpp"
#include "support/failure.hpp"
#include "support/json.hpp"

namespace test_splices {
namespace {

using namespace fused_cases;
using sp::errc;
using sp::fused_piece;
using support::failure_of;
using support::json;
using support::says;

using pieces = std::vector<fused_piece>;
constexpr auto text = row_source::text, visual = row_source::visual, learned = row_source::learned;

template <class S>
pieces pieces_of(S const& splice, std::vector<index_t> const& tokens, std::vector<visual_item> const& items) {
  pieces out;
  splice.pieces(sp::splice_sample{tokens, items}, [&](fused_piece const& p) { out.push_back(p); });
  return out;
}

// What is no splice, by little.
struct no_add {
  void pieces(sp::splice_sample const&) const {}
};
struct other_piece {
  template <class Add>
  void pieces(sp::splice_sample const&, Add&& add) const requires requires {
    add(1, 2, 3);
  }
  {}
};
struct not_const {
  template <class Add>
  void pieces(sp::splice_sample const&, Add&&) {}
};
static_assert(sp::splice_rule<any_splice> && !sp::splice_rule<int> && !sp::splice_rule<no_add> && !sp::splice_rule<other_piece> &&
              !sp::splice_rule<not_const>);

TEST_CASE("splices: what each says of a sample") {
  std::vector<index_t> const llava{1, 2, 50, 3, 50}, qwen{1, 60, 50, 50, 61, 2, 60, 51, 51, 61};
  std::vector<visual_item> const two{{1, 2, 2}, {1, 1, 3}}, mixed{{1, 1, 2}, {2, 1, 1, true}};
  CHECK(pieces_of(sp::splice::placeholder{50}, llava, two) == pieces{{text, 0, 2}, {visual, 0, 4}, {text, 3, 1}, {visual, 4, 3}});
  CHECK(pieces_of(sp::splice::placeholder{.token = 50, .newline = true}, llava, two) == pieces{{text, 0, 2},
                                                                                               {visual, 0, 2},
                                                                                               {learned, 0, 1},
                                                                                               {visual, 2, 2},
                                                                                               {learned, 0, 1},
                                                                                               {text, 3, 1},
                                                                                               {visual, 4, 3},
                                                                                               {learned, 0, 1}});
  CHECK(pieces_of(sp::splice::one_to_one{50, 51}, qwen, mixed) ==
        pieces{{text, 0, 2}, {visual, 0, 1}, {visual, 1, 1}, {text, 4, 3}, {visual, 2, 1}, {visual, 3, 1}, {text, 9, 1}});
  CHECK(pieces_of(sp::splice::between{60, 61}, qwen, mixed) ==
        pieces{{text, 0, 2}, {visual, 0, 2}, {text, 4, 3}, {visual, 2, 2}, {text, 9, 1}});
  std::vector<index_t> const frames{60, 51, 61, 7, 60, 51, 61}; // of one video, with a timestamp between them
  CHECK(pieces_of(sp::splice::between{60, 61}, frames, {{2, 1, 1, true}}) ==
        pieces{{text, 0, 1}, {visual, 0, 1}, {text, 2, 3}, {visual, 1, 1}, {text, 6, 1}});
  CHECK(pieces_of(sp::splice::prefix{}, {7, 8}, two) == pieces{{visual, 0, 7}, {text, 0, 2}});
  CHECK(pieces_of(sp::splice::prefix{}, {}, {}).empty());
  CHECK(pieces_of(sp::splice::one_to_one{50, 50}, {50, 1, 50, 50}, {{1, 1, 2}, {1, 1, 1, true}}) ==
        pieces_of(sp::splice::one_to_one{50}, {50, 1, 50, 50}, {{1, 1, 3}}));
  for (auto const& [tokens, items] : {std::pair{llava, two}, std::pair{std::vector<index_t>{5, 6}, std::vector<visual_item>{}}}) {
    sp::splice::placeholder const lines{.token = 50, .newline = true};
    CHECK(pieces_of(sp::splice::prefix_lm{lines, 3}, tokens, items) == pieces_of(lines, tokens, items));
    CHECK(pieces_of(sp::splice::image_spans{lines}, tokens, items) == pieces_of(lines, tokens, items));
  }
  CHECK(pieces_of(sp::splice::between{60, 61}, {5}, {}) == pieces{{text, 0, 1}});
}

struct batches {
  sp::batch text, visual;
};
/// A text of documents of `tokens`, and features of documents of `features`, on one rank.
batches alone(std::vector<std::vector<index_t>> const& tokens, std::vector<index_t> const& features) {
  std::vector<index_t> cu{0}, of_features{0};
  for (auto const& t : tokens) cu.push_back(cu.back() + index_t(t.size()));
  for (index_t f : features) of_features.push_back(of_features.back() + f);
  return {sp::batch(sp::documents::packed(cu), sp::contiguous{}, 0, 1),
          sp::batch(sp::documents::packed(of_features), sp::contiguous{}, 0, 1)};
}
template <class S>
sp::fused_batch fused(S const& splice, std::vector<sample> const& samples, std::vector<index_t> const& features,
                      std::vector<index_t> const& order = {}, sp::fusion_options options = {}) {
  std::vector<std::vector<index_t>> tokens;
  std::vector<sp::splice_sample> of;
  for (sample const& s : samples) tokens.push_back(s.tokens), of.push_back({s.tokens, s.items, 0, s.prompt});
  auto const b = alone(tokens, features);
  return sp::fusion(sp::solo{}, splice, options).prepare(of, b.text, b.visual, order, sp::contiguous{});
}
template <class... A>
sp::error_info refusal(A const&... arguments) {
  auto e = failure_of([&] { return (static_cast<void>(fused(arguments...)), 0); });
  CHECK(e.primitive == "fusion.prepare");
  return e;
}

struct bad_pieces {
  fused_piece piece{};
  index_t prefix = 0;
  index_t learned_rows() const { return 1; }
  template <class Add>
  void pieces(sp::splice_sample const&, Add&& add) const {
    add(piece);
  }
  sp::fused_attention attention_of(sp::splice_sample const&) const { return {.prefix = prefix}; }
};

TEST_CASE("splices: what does not fit together is refused with its sample and both numbers") {
  sample const words{{1, 2, 3}, {}};
  using samples = std::vector<sample>;
  using list = std::vector<index_t>;
  std::vector<visual_item> const four{{1, 2, 2}};
  auto bad = errc::bad_documents;
  sp::splice::placeholder const llava{50};
  CHECK(says(refusal(llava, samples{words, {{50, 1, 50}, four}}, list{4}), bad, "sample 1", "2 placeholders (token 50)",
             "1 image"));
  CHECK(says(refusal(llava, samples{words, {{1}, four}}, list{4}), bad, "sample 1", "0 placeholders", "1 image"));
  sp::splice::one_to_one const intern{50, 51};
  CHECK(says(refusal(intern, samples{{{50, 50, 50}, four}}, list{4}), bad, "sample 0", "3 image tokens (50)", "4 rows"));
  CHECK(says(refusal(intern, samples{words, {{51}, {{2, 1, 1, true}}}}, list{1, 1}), bad, "sample 1", "1 video token (51)",
             "2 rows"));
  CHECK(says(refusal(sp::splice::one_to_one{50}, samples{{{50}, {{1, 1, 1}, {1, 1, 1, true}}}}, list{1, 1}), bad, "1 image token",
             "2 rows"));
  sp::splice::between const qwen{60, 61};
  CHECK(says(refusal(qwen, samples{words, {{60, 5, 5, 5, 5}, four}}, list{4}), bad, "sample 1",
             "start mark 60 at token 0 has no end", "1 start mark", "0 end marks"));
  CHECK(says(refusal(qwen, samples{{{60, 5, 60, 5, 61}, four}}, list{4}), bad, "start mark 60 at token 0", "2 start marks",
             "1 end mark"));
  CHECK(says(refusal(qwen, samples{{{1, 61}, {}}}, list{}), bad, "end mark 61 at token 1", "0 start marks", "1 end mark"));
  CHECK(says(refusal(qwen, samples{{{60, 5, 5, 5, 61}, four}}, list{4}), bad, "sample 0", "3 tokens between the marks at token 0",
             "image 0 has 4 rows"));
  CHECK(says(refusal(qwen, samples{{{60, 5, 5, 61, 60, 5, 61}, {{2, 1, 2, true}}}}, list{2, 2}), bad,
             "1 token between the marks at token 4", "4 rows, 2 in each of its frames of which 1 are placed"));
  CHECK(says(refusal(qwen, samples{{{1}, four}}, list{4}), bad, "sample 0", "0 pairs of marks", "1 image"));
  CHECK(says(refusal(qwen, samples{{{60, 61, 60, 5, 61}, {}}}, list{}), bad, "2 pairs of marks", "0 images"));
  CHECK(says(refusal(sp::splice::prefix{.prompt_end = 9}, samples{{{9}, {}}, words}, list{}), bad, "sample 1",
             "none of its 3 tokens is 9"));
  CHECK(says(refusal(sp::splice::prefix_lm{intern, 9}, samples{{{9}, {}}, words}, list{}), bad, "sample 1",
             "none of its 3 tokens is 9"));
  CHECK(says(refusal(sp::splice::prefix{}, samples{words, {{1, 2}, {}, 3}}, list{}), bad, "sample 1", "its prompt has 3 tokens",
             "it has 2 tokens"));

  CHECK(says(refusal(llava, samples{{{50}, {{1, 0, 4}}}}, list{4}), bad, "sample 0", "image 0", "1 x 0 x 4"));
  CHECK(says(refusal(llava, samples{words, {{50, 7}, four}}, list{4}, list{}, sp::fusion_options{.limit = 4}), bad, "sample 1",
             "fuses to 5 rows", "limit is 4"));
  CHECK(fused(llava, {words, {{50, 7}, four}}, {4}, {}, {.limit = 5}).tokens() == 8);
  CHECK(says(refusal(bad_pieces{{text, 1, 3}}, samples{words}, list{}), bad, "sample 0", "3 tokens from 1 on", "of 3"));
  CHECK(says(refusal(bad_pieces{{visual, 3, 2, -4}}, samples{{{}, four}}, list{4}), bad, "2 visual rows from 3 on, -4 apart",
             "of 4"));
  CHECK(says(refusal(bad_pieces{{learned, 0, 2}}, samples{words}, list{}), bad, "2 learned rows", "of 1"));
  CHECK(says(refusal(bad_pieces{{text, 0, -1}}, samples{words}, list{}), bad, "-1 tokens"));
  CHECK(
      says(refusal(bad_pieces{{text, 0, 2}, 3}, samples{words}, list{}), bad, "sample 0", "prefix of 3 rows", "fuses to 2 rows"));
  CHECK(says(refusal(bad_pieces{{text, 0, 2}, -1}, samples{words}, list{}), bad, "sample 0", "prefix of -1 rows"));
  CHECK(fused(bad_pieces{{text, 0, 2}, 2}, {words}, {}).mask().prefix == list{2});

  // grids against features
  samples const images{{{50}, four}, {{50, 50}, {{1, 1, 3}, {1, 2, 1}}}};
  CHECK(fused(llava, images, {4, 3, 2}).tokens() == 9);
  CHECK(fused(llava, images, {4, 5}).tokens() == 9); // a document of two images
  CHECK(fused(llava, images, {9}).tokens() == 9);
  CHECK(fused(llava, images, {2, 2, 1, 2, 2}).tokens() == 9); // windows
  CHECK(says(refusal(llava, images, list{4, 3}), bad, "sample 1: image 1 ends with row 9", "has 7 rows"));
  CHECK(says(refusal(llava, images, list{4, 3, 2, 1}), bad, "sample 1 is the last", "9 rows", "has 10"));
  CHECK(says(refusal(llava, images, list{4, 2, 3}), bad, "sample 1: image 1 begins at row 7", "a document of 3 rows"));
  CHECK(says(refusal(llava, images, list{3, 4, 2}), bad, "sample 1: image 0 begins at row 4", "a document of 4 rows"));
  CHECK(says(refusal(llava, images, list{5, 4}), bad, "sample 1: image 0 begins at row 4", "a document of 5 rows"));
  CHECK(says(refusal(llava, samples{words}, list{2}), bad, "sample 0 is the last", "0 rows", "has 2"));
  CHECK(says(refusal(llava, samples{}, list{2}), bad, "no sample", "0 rows", "has 2"));
  // orders
  CHECK(says(refusal(llava, images, list{9}, list{0, 1, 2}), bad, "3 rows", "9"));
  CHECK(says(refusal(llava, images, list{9}, list{0, 1, 2, 3, 4, 5, 6, 7, 9}), bad, "entry 8", "9 of 9 rows"));
  CHECK(says(refusal(llava, images, list{9}, list{0, 1, 2, 3, 4, 5, 6, 7, 3}), bad, "entry 8", "3 of 9 rows",
             "as an entry before"));
  // text
  auto const b = alone({{1, 2}, {3}}, {});
  std::vector<sp::splice_sample> of{{words.tokens, {}}};
  sp::fusion const fusion(sp::solo{}, llava);
  auto prepare = [&] { return (static_cast<void>(fusion.prepare(of, b.text, b.visual, sp::contiguous{})), 0); };
  CHECK(says(failure_of(prepare), bad, "1 sample", "2 documents"));
  of = {{words.tokens, {}}, {words.tokens, {}}};
  CHECK(says(failure_of(prepare), bad, "sample 0 has 3 tokens", "text batch 2"));
  // labels
  std::vector<std::int32_t> labels(3);
  auto const f = fused(llava, {words}, {});
  list const few{1, 2};
  CHECK(says(failure_of([&] { return (f.labels(sp::view<std::int32_t, 1>(labels.data(), {3}), few), 0); }), bad, "2 labels",
             "3 text tokens"));
  CHECK(says(failure_of([&] { return (f.labels(sp::view<std::int32_t, 1>(labels.data(), {2})), 0); }), errc::invalid_shape,
             "2 rows", "owns 3"));
}

/// For each row of a sample the number of the image it is part of, -1 for none: rows of an image with text between them are two, learned
/// rows between its rows belong to it.
std::vector<index_t> naive_spans(step const& s, std::size_t d) {
  std::vector<index_t> out(s.rows[d].size(), -1), item_of;
  index_t first = 0, number = -1;
  for (std::size_t e = 0; e < d; ++e)
    for (visual_item const& x : s.samples[e].items) first += x.rows();
  for (std::size_t i = 0; i < s.samples[d].items.size(); ++i)
    item_of.insert(item_of.end(), std::size_t(s.samples[d].items[i].rows()), index_t(i));
  index_t before = -1; // the last visual row, unless text stands behind it
  for (index_t i = 0; i < index_t(out.size()); ++i) {
    source const& r = s.rows[d][std::size_t(i)];
    if (r.from == text) before = -1;
    if (r.from != visual) continue;
    auto item = [&](index_t row) { return item_of[std::size_t(s.rows[d][std::size_t(row)].at - first)]; };
    if (before < 0 || item(before) != item(i)) ++number, before = i;
    for (index_t k = before; k <= i; ++k) out[std::size_t(k)] = number;
    before = i;
  }
  return out;
}

TEST_CASE("splices: masks of prefixes and image spans, pair by pair") {
  drawer draw(3);
  int both_ways = 0;
  for (int trial = 0; trial < 60; ++trial) {
    rule const which = rule(trial % rules);
    step s = draw.draw(which, 1);
    std::vector<index_t> features;
    for (std::size_t i = 1; i < s.visual_cu.size(); ++i) features.push_back(s.visual_cu[i] - s.visual_cu[i - 1]);
    auto const f = fused(any_splice{which}, s.samples, features);
    auto const slices = sp::slices(f.mask(), f.documents(), f.documents());
    int wrong = 0;
    for (std::size_t d = 0; d < s.samples.size(); ++d) {
      auto const image = naive_spans(s, d);
      index_t prefix = 0;
      if (which == rule::prefix_lm)
        while (s.rows[d][std::size_t(prefix++)] !=
               source{text, s.text_cu[d] + (std::find(s.samples[d].tokens.begin(), s.samples[d].tokens.end(), prompt_end) -
                                            s.samples[d].tokens.begin())}) {
        }
      for (index_t i = 0; which == rule::one_to_one && i < index_t(image.size()); ++i)
        if (s.rows[d][std::size_t(i)].from == visual) prefix = i + 1;
      index_t const begin = f.documents()[d].begin;
      for (index_t q = 0; q < index_t(image.size()); ++q)
        for (index_t k = 0; k < index_t(image.size()); ++k) {
          bool const spans = which == rule::image_spans || which == rule::between || which == rule::lines;
          bool const same = spans && image[std::size_t(q)] >= 0 && image[std::size_t(q)] == image[std::size_t(k)];
          bool const want = k <= q || k < prefix || same;
          int seen = 0;
          for (sp::slice const& x : slices) seen += x.sees(begin + q, begin + k);
          wrong += seen != int(want);
          both_ways += want && k > q;
        }
    }
    CHECK(wrong == 0);
  }
  CHECK(both_ways > 100);
}

// ---- as transformers ---------------------------------------------------------------------------------------------------------------------

std::vector<index_t> numbers(json const& list) {
  auto const all = list.numbers();
  return {all.begin(), all.end()};
}
std::vector<json> cases(char const* name) { return json::fixture(std::string("multimodal/") + name + ".json")["cases"].items(); }

sample sample_of(json const& c) {
  sample s{numbers(c["tokens"]), {}};
  for (auto const& i : c["items"].rows()) s.items.push_back({i[0], i[1], i[2], i[3] == 1, i.size() > 4 ? float(i[4]) / 1000 : 1});
  return s;
}
std::vector<index_t> features_of(sample const& s) {
  std::vector<index_t> out;
  for (visual_item const& i : s.items) out.insert(out.end(), std::size_t(i.frames), i.height * i.width);
  return out;
}
/// As fixtures have them: all times, all heights, all widths.
template <class S>
std::vector<std::vector<index_t>> positions(S const& splice, sample const& s, sp::rotary_options options) {
  auto const f = fused(splice, {s}, features_of(s));
  std::vector<index_t> out(std::size_t(f.tokens() * 3));
  f.positions_3d(sp::view<index_t, 2>(out.data(), {f.tokens(), 3}), options);
  std::vector<std::vector<index_t>> planes(3);
  for (std::size_t i = 0; i < out.size(); ++i) planes[i % 3].push_back(out[i]);
  return planes;
}
std::vector<std::vector<index_t>> planes_of(json const& c) {
  std::vector<std::vector<index_t>> out;
  for (json const& p : c["positions"].items()) out.push_back(numbers(p));
  return out;
}

TEST_CASE("splices: rotary positions as transformers counts them for Qwen2-VL, Qwen2.5-VL and Qwen3-VL") {
  int compared = 0, steps = 0;
  sp::splice::between const marks{2, 3};
  sp::splice::one_to_one const tokens{4, 5};
  for (json const& c : cases("rope_index")) {
    sample const s = sample_of(c);
    sp::rotary_options options;
    if (c.has("tokens_per_second")) options.time_step = float(c["tokens_per_second"].number()), ++steps;
    CHECK(positions(marks, s, options) == planes_of(c));
    CHECK(positions(tokens, s, options) == planes_of(c));
    ++compared;
  }
  for (json const& c : cases("rope_index_largest")) {
    sp::rotary_options const options{.text_continues = sp::text_after_grid::largest_position};
    CHECK(positions(marks, sample_of(c), options) == planes_of(c));
    ++compared;
  }
  CHECK(compared == 29);
  CHECK(steps == 12);
}

TEST_CASE("splices: LLaVA's placeholders as its model expands them in transformers, labels and positions too") {
  int compared = 0;
  for (json const& c : cases("llava_merge")) {
    sample s{numbers(c["tokens"]), {}};
    s.items.assign(std::size_t(std::count(s.tokens.begin(), s.tokens.end(), 4)), {1, 1, c["rows_of_image"].number()});
    std::vector<index_t> rows; // i + 1: token i, -1 - i: visual row i
    for (fused_piece const& p : pieces_of(sp::splice::placeholder{4}, s.tokens, s.items))
      for (index_t i = 0; i < p.count; ++i) rows.push_back(p.from == text ? p.first + i + 1 : -1 - p.first - i);
    CHECK(rows == numbers(c["rows"]));
    auto const f = fused(sp::splice::placeholder{4}, {s}, features_of(s));
    std::vector<index_t> labels(std::size_t(f.tokens())), at(labels.size()), shifted = numbers(c["labels"]);
    shifted.erase(shifted.begin()), shifted.push_back(-100); // the model compares row i with label i + 1
    auto const own = numbers(c["own_labels"]);
    f.labels(sp::view<index_t, 1>(labels.data(), {f.tokens()}), own);
    f.positions(sp::view<index_t, 1>(at.data(), {f.tokens()}));
    CHECK(labels == shifted);
    CHECK(at == numbers(c["positions"]));
    ++compared;
  }
  CHECK(compared == 6);
}

/// LLaVA-NeXT: the thumbnail, then the tiles as one picture, cut to what is no padding, with a learned row behind each line. A user's splice.
struct any_resolution {
  index_t side, tiles_h, tiles_w, height, width; ///< of a tile in tokens, of the picture in tiles and in pixels

  index_t learned_rows() const { return 1; }
  template <class Add>
  void pieces(sp::splice_sample const&, Add&& add) const {
    index_t const h = tiles_h * side, w = tiles_w * side;
    index_t top = 0, left = 0;
    if (double(width) / double(height) > double(w) / double(h))
      top = (h - index_t(rounded(double(height) * (double(w) / double(width))))) / 2;
    else
      left = (w - index_t(rounded(double(width) * (double(h) / double(height))))) / 2;
    add(fused_piece{visual, 0, side * side});
    for (index_t y = top; y < h - top; ++y) {
      for (index_t x = left; x < w - left; ++x)
        add(fused_piece{visual, (1 + y / side * tiles_w + x / side) * side * side + y % side * side + x % side, 1});
      add(fused_piece{learned, 0, 1});
    }
  }
  static double rounded(double x) { return std::round(x * 1e7) / 1e7; }
};

TEST_CASE("splices: LLaVA-NeXT's tiles as its model packs them in transformers, by a splice of one's own") {
  int dropped = 0, compared = 0;
  for (json const& c : cases("llava_next_packing")) {
    auto const size = numbers(c["size"]), tiles = numbers(c["tiles"]);
    index_t const side = c["side"].number();
    sample const s{{}, {{tiles[0] * tiles[1] + 1, side, side}}};
    std::vector<index_t> rows;
    any_resolution const splice{side, tiles[0], tiles[1], size[0], size[1]};
    for (fused_piece const& p : pieces_of(splice, s.tokens, s.items))
      for (index_t i = 0; i < p.count; ++i) rows.push_back(p.from == learned ? -1 : p.first + i);
    CHECK(rows == numbers(c["rows"]));
    auto const f = fused(splice, {s}, features_of(s));
    CHECK(f.tokens() == index_t(rows.size()));
    dropped += index_t(f.visual_rows().size()) < s.items[0].rows();
    ++compared;
  }
  CHECK(compared == 11);
  CHECK(dropped > 3);
}

/// [query][key] of one sample.
template <class S>
std::vector<std::vector<std::int64_t>> seen(S const& splice, sample const& s) {
  auto const f = fused(splice, {s}, features_of(s));
  auto const slices = sp::slices(f.mask(), f.documents(), f.documents());
  std::vector<std::vector<std::int64_t>> sees(std::size_t(f.tokens()));
  for (index_t q = 0; q < f.tokens(); ++q)
    for (index_t k = 0; k < f.tokens(); ++k) {
      bool any = false;
      for (sp::slice const& x : slices) any = any || x.sees(q, k);
      sees[std::size_t(q)].push_back(any);
    }
  return sees;
}

TEST_CASE("splices: PaliGemma's mask as transformers makes it of token types, with tokens of images in the text and without") {
  int compared = 0;
  constexpr index_t image = 4, word = 7, newline = 9, said = 8;
  for (json const& c : cases("paligemma_mask")) {
    index_t const rows = c["rows"].number(), prompt = c["prompt"].number();
    sample s{{}, {{1, 1, rows}}};
    s.tokens.assign(std::size_t(prompt - 1), word);
    s.tokens.push_back(newline);
    s.tokens.insert(s.tokens.end(), std::size_t(c["said"].number()), said);
    auto const want = c["sees"].rows();
    CHECK(seen(sp::splice::prefix{.prompt_end = newline}, s) == want);
    sample several = s; // a prompt of several lines, and an answer
    several.prompt = prompt;
    for (index_t& t : several.tokens) t = newline;
    CHECK(seen(sp::splice::prefix{.prompt_end = newline}, several) == want);

    sample overwritten = s; // as the processor writes it
    overwritten.tokens.insert(overwritten.tokens.begin(), std::size_t(rows), image);
    CHECK(seen(sp::splice::prefix_lm{sp::splice::one_to_one{.image = image}, newline}, overwritten) == want);
    overwritten.prompt = rows + prompt;
    CHECK(seen(sp::splice::prefix_lm{sp::splice::one_to_one{.image = image}}, overwritten) == want);
    ++compared;
  }
  CHECK(compared == 4);
}

TEST_CASE("splices: InternVL's rows as transformers shuffles and overwrites them, patches and text over three ranks") {
  int compared = 0;
  for (json const& c : cases("internvl_tokens")) {
    index_t const side = c["side"].number(), tiles = c["tiles"].number();
    auto const tokens = numbers(c["tokens"]);
    auto const want = c["rows"].rows();
    sp::images const images(std::vector<sp::patch_grid>(std::size_t(tiles), {1, side, side}), {.merge = 2});
    std::vector<visual_item> const items(std::size_t(tiles), {1, side / 2, side / 2});
    sp::splice_sample const samples[] = {{tokens, items}};
    std::vector<double> all_words(tokens.size()), all_patches;
    for (std::size_t i = 0; i < tokens.size(); ++i) all_words[i] = -1 - double(i);
    for (index_t raster : images.raster_rows()) all_patches.push_back(double(raster)); // units of four, one behind the other
    std::atomic<int> wrong{0}, rows{0};
    sp::threads::run(3, [&](sp::threads const& comm) {
      sp::batch const patches(images.frames(), sp::grained{sp::zigzag{}, images.grain()}, comm),
          features = sp::merged(patches, images.grain()),
          written(sp::documents::packed(std::vector<index_t>{0, index_t(tokens.size())}), sp::contiguous{}, comm);
      sp::fusion const fusion(comm, sp::splice::one_to_one{.image = 4});
      auto const f = fusion.prepare(samples, written, features, images.merged_rows(), sp::striped{});
      auto local = [&](sp::batch const& b, auto&& value) {
        std::vector<double> out(std::size_t(b.tokens() * 4));
        sp::for_each_row(b, [&](sp::local_row const& r) {
          for (index_t k = 0; k < 4; ++k) out[std::size_t(r.row * 4 + k)] = value(sp::source_position(b, r), k);
        });
        return out;
      };
      auto words = local(written, [&](index_t at, index_t) { return all_words[std::size_t(at)]; });
      auto visual_rows = local(features, [&](index_t at, index_t k) { return all_patches[std::size_t(at * 4 + k)]; });
      std::vector<double> hidden(std::size_t(f.tokens() * 4));
      auto view = [](std::vector<double>& v) { return sp::view<double, 2>(v.data(), {index_t(v.size()) / 4, 4}); };
      fusion.forward(f, {.text = view(words), .visual = view(visual_rows), .hidden = view(hidden)});
      sp::for_each_row(f.batch(), [&](sp::local_row const& r) {
        ++rows;
        for (std::size_t k = 0; k < 4; ++k)
          wrong += index_t(hidden[std::size_t(r.row) * 4 + k]) != want[std::size_t(r.offset)][k];
      });
    });
    CHECK(wrong == 0);
    CHECK(rows == int(want.size()));
    ++compared;
  }
  CHECK(compared == 3);
}

TEST_CASE("splices: Gemma 3's mask as transformers makes it of images in the text") {
  int both_ways = 0;
  for (json const& c : cases("gemma3_mask")) {
    auto const sees = seen(sp::splice::image_spans{sp::splice::one_to_one{.image = 4}}, sample_of(c));
    CHECK(sees == c["sees"].rows());
    for (std::size_t q = 0; q < sees.size(); ++q)
      both_ways += int(std::count(sees[q].begin() + std::ptrdiff_t(q) + 1, sees[q].end(), 1));
  }
  CHECK(both_ways == 27);
}

} // namespace
} // namespace test_splices
