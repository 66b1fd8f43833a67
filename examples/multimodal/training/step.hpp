// One step's texts as batches: patches of the tower, tokens of the text, and what this rank has of both.
// All ranks make the same from the same samples, and then take their rows; nothing is sent.
#pragma once

#include <sp/fusion.hpp>

#include "multimodal/data/task.hpp"
#include "multimodal/model/model.hpp"
#include "multimodal/training/plans.hpp"

namespace multimodal {

/// What a step is, whoever owns which row of it.
class step {
public:
  step(std::vector<sample> texts, settings const& asked)
      : samples(std::move(texts)), images(grids_of(samples, asked.model), {.merge = asked.model.merge}) {
    for (sample const& s : samples) {
      ids.push_back(tokens_of(s, asked.splice, asked.model));
      bool answered = false;
      for (index_t id : ids.back()) {
        labels.push_back(answered ? id : ignored);
        tokens.push_back(id);
        answered = answered || id == equals_token;
      }
      cu_seqlens.push_back(index_t(tokens.size()));
      items.emplace_back();
      for (picture const& p : s.pictures)
        items.back().push_back(
            {1, patch_rows(asked.model.tower) / asked.model.merge, patch_columns(p, asked.model.tower) / asked.model.merge});
    }
    for (std::size_t i = 0; i < samples.size(); ++i) spliced.push_back({ids[i], items[i], index_t(i)});
  }
  step(step const&) = delete;

  std::vector<sample> samples;
  sp::images images;
  std::vector<std::vector<index_t>> ids; ///< by sample, before the splice
  std::vector<index_t> tokens, labels;   ///< of all samples; questions are no labels
  std::vector<index_t> cu_seqlens{0};
  std::vector<std::vector<sp::visual_item>> items; ///< by sample
  std::vector<sp::splice_sample> spliced;

private:
  static std::vector<sp::patch_grid> grids_of(std::vector<sample> const& samples, model_shape const& m) {
    std::vector<sp::patch_grid> grids;
    for (sample const& s : samples)
      for (picture const& p : s.pictures) grids.push_back({1, patch_rows(m.tower), patch_columns(p, m.tower)});
    return grids;
  }
};

/// The batches of one rank of a sequence group.
struct step_batches {
  sp::batch patches, merged, text;

  template <class Ranks>
  step_batches(step const& s, plan const& p, Ranks const& ranks)
      : patches(s.images.frames(), sp::grained{sp::contiguous{p.images}, s.images.grain()}, ranks),
        merged(sp::merged(patches, s.images.grain())), text(sp::documents::packed(s.cu_seqlens), sp::contiguous{}, ranks) {}
};

template <class E>
sp::view<E, 1> view_of(std::vector<E>& v) {
  return {v.data(), {index_t(v.size())}};
}
template <class E>
sp::view<E const, 1> view_of(std::vector<E> const& v) {
  return {v.data(), {index_t(v.size())}};
}

/// Pixels from -1 to 1 and places of this rank's patches.
template <class T>
local_patches<T> patches_of(step const& s, sp::batch const& mine, tower_shape const& t) {
  std::vector<picture const*> pictures;
  for (sample const& x : s.samples)
    for (picture const& p : x.pictures) pictures.push_back(&p);
  local_patches<T> out{matrix<T>(mine.tokens(), t.pixels_of_patch()), {}, index_t(s.images.frames().size())};
  out.places.resize(std::size_t(mine.tokens()));
  sp::view<index_t, 2> places(out.places.empty() ? nullptr : out.places.data()->data(), {mine.tokens(), 2});
  sp::patch_positions(s.images, mine, places);
  auto const rows = sp::tower_rows(s.images, mine);
  for (index_t r = 0; r < mine.tokens(); ++r) {
    picture const& p = *pictures[s.images.frames().at_or_before(rows[std::size_t(r)])];
    auto const [row, column] = out.places[std::size_t(r)];
    for (index_t i = 0; i < t.pixels_of_patch(); ++i)
      out.pixels(r, i) = T(p.pixel(row * t.pixels + i / t.pixels, column * t.pixels + i % t.pixels)) / 8 - 1;
  }
  return out;
}

/// This rank's rows of a step.
template <class T>
local_rows<T> rows_of(step const& s, step_batches const& mine, sp::fused_batch const& fused, model_shape const& m) {
  local_rows<T> rows{patches_of<T>(s, mine.patches, m.tower), std::vector<index_t>(std::size_t(mine.text.tokens())),
                     std::vector<std::int64_t>(std::size_t(fused.tokens())),
                     std::vector<std::array<index_t, 3>>(std::size_t(fused.tokens()))};
  sp::split(mine.text, view_of(s.tokens), view_of(rows.tokens));
  fused.labels(view_of(rows.labels), s.labels);
  sp::view<index_t, 2> const positions(rows.positions.empty() ? nullptr : rows.positions.data()->data(), {fused.tokens(), 3});
  if (m.three_axes) {
    fused.positions_3d(positions);
  } else {
    std::vector<index_t> along(std::size_t(fused.tokens()));
    fused.positions(view_of(along));
    for (std::size_t r = 0; r < along.size(); ++r) rows.positions[r] = {along[r], 0, 0};
  }
  return rows;
}

} // namespace multimodal
