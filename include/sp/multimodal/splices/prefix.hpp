// PaliGemma's splice: the images of a sample first, then its text, with the mask that goes with it.
// Prefix-LM: images and prompt are seen by everything, what the model is to say is causal; or images alone see themselves both ways.
#pragma once

#include <sp/multimodal/splices/masks.hpp>

namespace sp::splice {

/// All visual rows of a sample, then all its tokens.
struct prefix {
  enum class shows {
    prefix_lm,   ///< the images, and the prompt if it is marked, are seen by the whole sample
    image_spans, ///< causal, and each image sees itself both ways
  };
  shows mask = shows::prefix_lm;
  /// prefix_lm: the prompt up to the first token of this id is part of the prefix (PaliGemma: "\n"); splice_sample::prompt comes before
  /// it, as in prompts of several lines.
  index_t prompt_end = no_token;

  template <class Add>
  constexpr void pieces(splice_sample const& s, Add&& add) const {
    if (index_t const rows = s.rows(); rows > 0) add(fused_piece{row_source::visual, 0, rows});
    detail::add_text(add, 0, index_t(s.tokens.size()));
  }
  [[nodiscard]] constexpr fused_attention attention_of(splice_sample const& s) const {
    if (mask == shows::image_spans) return {.images_both_ways = true};
    return {.prefix = detail::prefix_rows(*this, s, prompt_end)};
  }
};
static_assert(splice_rule<prefix>);

} // namespace sp::splice
