// PaliGemma's splice: the images of a sample first, then its text, with the mask that goes with it.
// Prefix-LM: images and prompt are seen by everything, what the model is to say is causal; or images alone see themselves both ways.
#pragma once

#include <sp/multimodal/splice.hpp>

namespace sp::splice {

/// All visual rows of a sample, then all its tokens.
struct prefix {
  enum class shows {
    prefix_lm,   ///< the images, and the prompt if it is marked, are seen by the whole sample
    image_spans, ///< causal, and each image sees itself both ways
  };
  static constexpr index_t no_token = -1;

  shows mask = shows::prefix_lm;
  index_t prompt_end =
      no_token; ///< prefix_lm: the prompt up to the first token of this id is part of the prefix (PaliGemma: "\n")

  template <class Add>
  constexpr void pieces(splice_sample const& s, Add&& add) const {
    if (index_t const rows = s.rows(); rows > 0) add(fused_piece{row_source::visual, 0, rows});
    detail::add_text(add, 0, index_t(s.tokens.size()));
  }
  [[nodiscard]] constexpr fused_attention attention_of(splice_sample const& s) const {
    if (mask == shows::image_spans) return {.images_both_ways = true};
    return {.prefix = s.rows() + prompt(s)};
  }

private:
  constexpr index_t prompt(splice_sample const& s) const {
    if (prompt_end == no_token) return 0;
    for (std::size_t i = 0; i < s.tokens.size(); ++i)
      if (s.tokens[i] == prompt_end) return index_t(i) + 1;
    refuse_sample(s,
                  "none of its " + detail::counted(index_t(s.tokens.size()), "token") + " is " + std::to_string(prompt_end) +
                      ", which ends the prompt",
                  "End the prompt of each sample with that token, or leave prompt_end out: the prefix is the images alone then");
  }
};
static_assert(splice_rule<prefix>);

} // namespace sp::splice
