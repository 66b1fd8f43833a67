// Samples with images in them, drawn, and what a splice makes of them written naively: row by row, on one rank, apart from the library.
// Which splice, which shardings and which order of the visual features are values, so that a fusion is instantiated once for all of them.
#pragma once

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <sp/fusion.hpp>

#include "support/sharding.hpp"

namespace fused_cases {

using sp::index_t;
using sp::row_source;
using sp::visual_item;

inline constexpr index_t image_token = 900, video_token = 901, start_mark = 902, end_mark = 903, prompt_end = 904;

struct sample {
  std::vector<index_t> tokens;
  std::vector<visual_item> items;
  index_t prompt = -1;
};

enum class rule { placeholder, lines, one_to_one, between, prefix_lm, image_spans, users_own };
inline constexpr int rules = 7;

/// Where a row of the fused stream comes from: an entry of all samples' tokens, of all visual rows, or of the learned rows.
struct source {
  row_source from;
  index_t at;
  friend bool operator==(source const&, source const&) = default;
};

/// Any splice of the library, and one of a user: text backwards, the first token twice, visual rows with every third one dropped, the last
/// one again and twice, learned rows between.
struct any_splice {
  rule which;

  index_t learned_rows() const { return which == rule::lines ? 1 : which == rule::users_own ? 2 : 0; }
  template <class Add>
  void pieces(sp::splice_sample const& s, Add&& add) const {
    switch (which) {
    case rule::placeholder:
      return sp::splice::placeholder{image_token}.pieces(s, add);
    case rule::lines:
      return sp::splice::placeholder{.token = image_token, .newline = true}.pieces(s, add);
    case rule::one_to_one:
      return sp::splice::one_to_one{image_token, video_token}.pieces(s, add);
    case rule::between:
      return sp::splice::between{start_mark, end_mark}.pieces(s, add);
    case rule::prefix_lm:
      return sp::splice::prefix{.prompt_end = prompt_end}.pieces(s, add);
    case rule::image_spans:
      return sp::splice::prefix{.mask = sp::splice::prefix::shows::image_spans}.pieces(s, add);
    case rule::users_own:
      break;
    }
    index_t const tokens = index_t(s.tokens.size()), rows = s.rows();
    add(sp::fused_piece{row_source::text, tokens - 1, tokens, -1});
    for (index_t i = 0; i < rows; i += 3) {
      add(sp::fused_piece{row_source::visual, i, std::min<index_t>(2, rows - i)});
      add(sp::fused_piece{row_source::learned, 1, 1});
    }
    if (rows > 0) add(sp::fused_piece{row_source::visual, rows - 1, 2, 0});
    if (tokens > 0) add(sp::fused_piece{row_source::text, 0, 1});
    add(sp::fused_piece{row_source::learned, 0, 2});
  }
  sp::fused_attention attention_of(sp::splice_sample const& s) const {
    if (which == rule::prefix_lm) return sp::splice::prefix{.prompt_end = prompt_end}.attention_of(s);
    if (which == rule::image_spans) return sp::splice::prefix{.mask = sp::splice::prefix::shows::image_spans}.attention_of(s);
    if (which == rule::one_to_one) return sp::splice::prefix_lm{sp::splice::one_to_one{image_token, video_token}}.attention_of(s);
    if (which == rule::between) return sp::splice::image_spans{sp::splice::between{start_mark, end_mark}}.attention_of(s);
    return {.images_both_ways = which == rule::lines};
  }
};

/// The rows of one sample, as a loop over its tokens writes them; positions of its first token and of its first visual row are given.
inline std::vector<source> naive_rows(rule which, sample const& s, index_t text, index_t visual) {
  std::vector<source> out;
  auto add_text = [&](index_t i) { out.push_back({row_source::text, text + i}); };
  auto add_visual = [&](index_t i) { out.push_back({row_source::visual, visual + i}); };
  auto add_learned = [&](index_t i) { out.push_back({row_source::learned, i}); };
  std::vector<index_t> of_images, of_videos;
  index_t rows = 0;
  for (visual_item const& i : s.items)
    for (index_t r = 0; r < i.frames * i.height * i.width; ++r) (i.video ? of_videos : of_images).push_back(rows++);
  index_t const tokens = index_t(s.tokens.size());
  index_t next = 0, next_image = 0, next_video = 0;
  std::size_t item = 0;
  bool inside = false;
  if (which == rule::prefix_lm || which == rule::image_spans)
    for (index_t i = 0; i < rows; ++i) add_visual(i);
  if (which == rule::users_own) {
    for (index_t i = tokens; i-- > 0;) add_text(i);
    for (index_t i = 0; i < rows; ++i) {
      if (i % 3 < 2) add_visual(i);
      if (i % 3 == 1 || (i % 3 == 0 && i + 1 == rows)) add_learned(1);
    }
    if (rows > 0) add_visual(rows - 1), add_visual(rows - 1);
    if (tokens > 0) add_text(0);
    add_learned(0), add_learned(1);
    return out;
  }
  for (index_t i = 0; i < tokens; ++i) {
    index_t const id = s.tokens[std::size_t(i)];
    bool const expands = which == rule::placeholder || which == rule::lines;
    if (expands && id == image_token) {
      visual_item const& x = s.items[item++];
      for (index_t line = 0; line < x.frames * x.height; ++line) {
        for (index_t w = 0; w < x.width; ++w) add_visual(next++);
        if (which == rule::lines) add_learned(0);
      }
    } else if (which == rule::one_to_one && id == image_token) {
      add_visual(of_images[std::size_t(next_image++)]);
    } else if (which == rule::one_to_one && id == video_token) {
      add_visual(of_videos[std::size_t(next_video++)]);
    } else if (which == rule::between && inside && id != end_mark) {
      add_visual(next++);
    } else {
      inside = id == start_mark;
      add_text(i);
    }
  }
  return out;
}

/// A step: its samples, the order of visual features, and who owns what.
struct step {
  rule which = rule::placeholder;
  std::vector<sample> samples;
  std::vector<index_t> order; ///< [visual row] -> feature; empty: as they are
  int parts = 1;
  support::any_sharding text_how, visual_how, fused_how;
  sp::shapes text_local = sp::shapes::ragged, visual_local = sp::shapes::ragged, fused_local = sp::shapes::ragged;
  sp::rotary_options rotary;
  int checks = 1;

  std::vector<index_t> ids;                      ///< tokens of all samples
  std::vector<index_t> text_cu{0}, visual_cu{0}; ///< by sample, by frame
  std::vector<std::vector<source>> rows;         ///< by sample, naive
  index_t visual = 0, learned = 0;

  void finish() {
    for (sample const& s : samples) {
      rows.push_back(naive_rows(which, s, index_t(ids.size()), visual));
      ids.insert(ids.end(), s.tokens.begin(), s.tokens.end());
      text_cu.push_back(index_t(ids.size()));
      for (visual_item const& i : s.items)
        for (index_t t = 0; t < i.frames; ++t) visual_cu.push_back(visual += i.height * i.width);
    }
    learned = any_splice{which}.learned_rows();
  }
  std::vector<sp::splice_sample> splice_samples() const {
    std::vector<sp::splice_sample> out;
    for (sample const& s : samples) out.push_back({s.tokens, s.items});
    return out;
  }
  sp::documents text_documents() const {
    std::vector<index_t> names(samples.size());
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = 100 + 7 * index_t(i);
    return sp::documents::packed(text_cu).with_ids(names);
  }
  sp::documents visual_documents() const { return sp::documents::packed(visual_cu); }
  index_t fused_length() const {
    index_t n = 0;
    for (auto const& r : rows) n += index_t(r.size());
    return n;
  }
};

class drawer {
public:
  explicit drawer(unsigned seed) : g_(seed) {}
  index_t pick(index_t a, index_t b) { return a + index_t(g_() % std::uint32_t(b - a + 1)); }

  visual_item item(bool may_be_video) {
    bool const video = may_be_video && pick(0, 2) == 0;
    return {video ? pick(1, 3) : 1, pick(1, 4), pick(1, 4), video, float(pick(1, 9)) / 4};
  }
  sample of(rule which) {
    sample s;
    auto words = [&](index_t most) {
      for (index_t n = pick(0, most); n > 0; --n) s.tokens.push_back(pick(0, 99));
    };
    auto some = [&](index_t n, index_t id) { s.tokens.insert(s.tokens.end(), std::size_t(n), id); };
    words(5);
    for (index_t n = pick(0, 3); n > 0; --n) {
      visual_item const x = item(which != rule::placeholder && which != rule::lines);
      s.items.push_back(x);
      if (which == rule::placeholder || which == rule::lines) some(1, image_token);
      if (which == rule::one_to_one) some(x.rows(), x.video ? video_token : image_token);
      if (which == rule::between) {
        index_t const marks = x.video && pick(0, 1) ? x.frames : 1;
        for (index_t m = 0; m < marks; ++m) {
          words(1);
          some(1, start_mark), some(x.rows() / marks, image_token), some(1, end_mark);
        }
      }
      words(3);
    }
    if (which == rule::prefix_lm) some(1, prompt_end), words(4);
    return s;
  }
  support::any_sharding sharding(int parts) {
    support::any_sharding how{int(pick(0, 2)), pick(0, 1) ? sp::scope::document : sp::scope::stream};
    if (parts % 2 == 0 && pick(0, 2) == 0) how.inner = 2, how.stride = pick(0, 1) ? parts / 2 : 1;
    return how;
  }
  /// Whether a step has samples, images in some of them, or none at all, is drawn too.
  step draw(rule which, int parts) {
    step s;
    s.which = which, s.parts = parts;
    for (index_t n = pick(0, 4); n > 0; --n) s.samples.push_back(of(which));
    if (pick(0, 5) == 0) // text alone
      for (sample& x : s.samples) x = {std::vector<index_t>(std::size_t(pick(0, 6)), 5), {}};
    if (which == rule::prefix_lm)
      for (sample& x : s.samples) x.tokens.push_back(prompt_end);
    s.finish();
    if (pick(0, 1)) { // within frames, as windows do
      s.order.resize(std::size_t(s.visual));
      std::iota(s.order.begin(), s.order.end(), index_t{0});
      for (std::size_t d = 1; d < s.visual_cu.size(); ++d)
        std::shuffle(s.order.begin() + s.visual_cu[d - 1], s.order.begin() + s.visual_cu[d], g_);
    }
    s.text_how = sharding(parts), s.visual_how = sharding(parts), s.fused_how = sharding(parts);
    auto local = [&] { return pick(0, 3) == 0 ? sp::shapes::padded : sp::shapes::ragged; };
    s.text_local = local(), s.visual_local = local(), s.fused_local = local();
    s.rotary = {pick(0, 1) ? sp::text_after_grid::largest_side : sp::text_after_grid::largest_position, pick(0, 1) ? 2.5f : 0.f,
                pick(0, 2) == 0};
    s.checks = int(pick(0, 3));
    return s;
  }

private:
  std::mt19937 g_;
};

/// Labels of one sample's rows: the id behind each, -100 where that is no text.
inline std::vector<index_t> naive_labels(step const& s, std::size_t d, std::vector<index_t> const& ids) {
  std::vector<index_t> out;
  for (std::size_t i = 1; i <= s.rows[d].size(); ++i)
    out.push_back(i < s.rows[d].size() && s.rows[d][i].from == row_source::text ? ids[std::size_t(s.rows[d][i].at)] : -100);
  return out;
}

/// Rotary positions of one sample's rows, counted on row by row.
inline std::vector<std::array<index_t, 3>> naive_rotary(step const& s, std::size_t d) {
  struct place {
    std::size_t item;
    index_t t, h, w;
  };
  std::vector<place> places; // of the visual rows of the sample
  index_t first = 0;         // its first visual row
  for (std::size_t i = 0; i < d; ++i)
    for (visual_item const& x : s.samples[i].items) first += x.rows();
  for (std::size_t i = 0; i < s.samples[d].items.size(); ++i)
    for (index_t t = 0; t < s.samples[d].items[i].frames; ++t)
      for (index_t h = 0; h < s.samples[d].items[i].height; ++h)
        for (index_t w = 0; w < s.samples[d].items[i].width; ++w) places.push_back({i, t, h, w});
  std::vector<std::array<index_t, 3>> out;
  index_t next = 0, base = 0, frame = 0, largest = 0;
  place before{~std::size_t{0}, 0, 0, 0};
  bool in_grid = false;
  auto leave = [&] {
    if (!in_grid) return;
    visual_item const& x = s.samples[d].items[before.item];
    next = s.rotary.text_continues == sp::text_after_grid::largest_side ? base + std::max(x.height, x.width) : largest + 1;
    in_grid = false;
  };
  for (source const& r : s.rows[d]) {
    if (r.from != row_source::visual) {
      leave();
      out.push_back({next, next, next});
      ++next;
      continue;
    }
    place const p = places[std::size_t(r.at - first)];
    if (!in_grid || p.item != before.item || (s.rotary.frames_apart && p.t != before.t)) {
      leave();
      base = largest = next, frame = p.t, in_grid = true;
    }
    visual_item const& x = s.samples[d].items[p.item];
    index_t time = p.t - frame;
    if (x.video && s.rotary.time_step > 0) time = index_t(float(time) * (s.rotary.time_step * x.seconds));
    out.push_back({base + time, base + p.h, base + p.w});
    largest = std::max({largest, base + time, base + p.h, base + p.w});
    before = p;
  }
  return out;
}

} // namespace fused_cases
