// The closed forms of what a step sends: attention of tower and decoder, class tokens, the splice, deepstack.
// From token counts, head ranges and owners alone, counted row by row; no communicator and no route is asked.
#pragma once

#include "multimodal/training/step.hpp"
#include "trainer/training/traffic.hpp"

namespace multimodal {

/// Where a row of a fused sample comes from, written down once more without the splices of the library.
struct source_row {
  sp::row_source from;
  index_t row; ///< among all text tokens, or all visual rows, of the step
};
inline std::vector<source_row> sources_of(step const& s, settings const& asked) {
  std::vector<source_row> all;
  index_t token = 0, visual = 0;
  for (std::size_t i = 0; i < s.samples.size(); ++i) {
    std::size_t next = 0;
    for (index_t id : s.ids[i]) {
      if (id != picture_token) {
        all.push_back({sp::row_source::text, token});
      } else if (asked.splice == splice_kind::llava) {
        picture const& p = s.samples[i].pictures[next++];
        index_t const rows = visual_rows(p, asked.model), line = patch_columns(p, asked.model.tower) / asked.model.merge;
        for (index_t r = 0; r < rows; ++r) {
          all.push_back({sp::row_source::visual, visual++});
          if (r % line == line - 1) all.push_back({sp::row_source::learned, 0});
        }
      } else {
        all.push_back({sp::row_source::visual, visual++});
      }
      ++token;
    }
  }
  return all;
}

/// Bytes that the ranks of one sequence group send for a step, forward and backward, with elements of `element` bytes. The batches and the
/// layout are those of any rank.
inline index_t step_bytes(plan const& p, step const& s, step_batches const& of, sp::layout const& fused, settings const& asked,
                          index_t element) {
  model_shape const& m = asked.model;
  tower_shape const& t = m.tower;
  trainer::sent_bytes const size{element, element};
  trainer::attention_split const vision{p.vision.ring, p.vision.ulysses, sp::schedule::rotate, t.heads, t.heads, t.head_dim};
  trainer::attention_split const text{p.text.ring, p.text.ulysses, p.schedule, m.q_heads, m.kv_heads, m.head_dim};

  std::vector<index_t> rows = trainer::tokens_of_ranks(of.patches.layout()), keys(std::size_t(p.vision.ring));
  index_t const prefix_rows = index_t(s.images.frames().size()) * t.prefix;
  rows[0] += prefix_rows; // rank 0 owns them
  for (int r = 0; r < p.sequence(); ++r) keys[std::size_t(r / p.vision.ulysses)] += (p.vision.ring - 1) * rows[std::size_t(r)];
  index_t bytes = t.layers * trainer::attention_bytes(vision, rows, keys, size);
  bytes += t.layers * 2 * (p.sequence() - 1) * prefix_rows * t.heads * t.head_dim * element; // out, and shares of dout
  bytes += m.layers * trainer::attention_bytes(text, trainer::tokens_of_ranks(fused), trainer::key_rows_sent(text, fused), size);

  auto const to = trainer::owners_of(fused), from_text = trainer::owners_of(of.text.layout()),
             from_visual = trainer::owners_of(of.merged.layout());
  auto const sources = sources_of(s, asked);
  index_t text_moved = 0, visual_moved = 0;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    auto const row = std::size_t(sources[i].row);
    text_moved += sources[i].from == sp::row_source::text && from_text[row] != to[i];
    visual_moved += sources[i].from == sp::row_source::visual && from_visual[row] != to[i];
  }
  return bytes + 2 * (text_moved + (1 + m.deepstack) * visual_moved) * m.dim * element;
}

} // namespace multimodal
