// Any splice with the mask of a model that does not read images causally: prefix-LM (PaliGemma) or image spans (Gemma 3).
// Rows are those of the splice inside; which of them are a prefix follows from its pieces.
#pragma once

#include <sp/multimodal/splice.hpp>

namespace sp {

namespace detail {

/// Tokens of a sample's prompt: as many as it says, else those up to the first `end`, else none.
constexpr index_t prompt_of(splice_sample const& s, index_t end) {
  index_t const tokens = index_t(s.tokens.size());
  if (s.prompt > tokens)
    refuse_sample(s, "its prompt has " + counted(s.prompt, "token") + ", it has " + counted(tokens, "token"),
                  "splice_sample::prompt counts tokens of the sample before the splice");
  if (s.prompt >= 0) return s.prompt;
  if (end == splice::no_token) return 0;
  for (index_t i = 0; i < tokens; ++i)
    if (s.tokens[std::size_t(i)] == end) return i + 1;
  refuse_sample(
      s, "none of its " + counted(tokens, "token") + " is " + std::to_string(end) + ", which ends the prompt",
      "End the prompt of each sample with that token, give splice_sample::prompt, or leave prompt_end out: the prefix ends "
      "behind the images then");
}

/// Rows of a sample up to the last one of an image or of its prompt.
template <class Splice>
constexpr index_t prefix_rows(Splice const& splice, splice_sample const& s, index_t prompt_end) {
  index_t const prompt = prompt_of(s, prompt_end);
  index_t rows = 0, at = 0;
  splice.pieces(s, [&](fused_piece const& p) {
    for (index_t i = 0; i < p.count; ++i)
      if (p.from != row_source::text || p.first + i * p.step < prompt) rows = at + i + 1;
    at += p.count;
  });
  return rows;
}

} // namespace detail

namespace splice {

/// `inner`, whose images and prompt are seen by the whole sample: sp::splice::prefix_lm{sp::splice::one_to_one{.image = 257152}, 108} for
/// PaliGemma whose processor has written a token for each image row.
template <class Splice>
struct prefix_lm {
  static_assert(detail::require_splice<Splice>());

  Splice inner;
  index_t prompt_end = no_token; ///< the prompt ends behind the first token of this id; splice_sample::prompt comes before it

  [[nodiscard]] constexpr index_t learned_rows() const { return detail::learned_rows_of(inner); }
  template <class Add>
  constexpr void pieces(splice_sample const& s, Add&& add) const {
    inner.pieces(s, add);
  }
  [[nodiscard]] constexpr fused_attention attention_of(splice_sample const& s) const {
    return {.prefix = detail::prefix_rows(inner, s, prompt_end)};
  }
};
template <class Splice>
prefix_lm(Splice, index_t = no_token) -> prefix_lm<Splice>;

/// `inner`, causal, and each image of which sees itself both ways.
template <class Splice>
struct image_spans {
  static_assert(detail::require_splice<Splice>());

  Splice inner;

  [[nodiscard]] constexpr index_t learned_rows() const { return detail::learned_rows_of(inner); }
  template <class Add>
  constexpr void pieces(splice_sample const& s, Add&& add) const {
    inner.pieces(s, add);
  }
  [[nodiscard]] constexpr fused_attention attention_of(splice_sample const&) const { return {.images_both_ways = true}; }
};
template <class Splice>
image_spans(Splice) -> image_spans<Splice>;

} // namespace splice
} // namespace sp
