// Splices: which row of a decoder's stream comes from which text token, visual row or learned row. A splice is a struct with one member.
// Pure integers of one sample's token ids and images; what follows from them (documents, labels, positions, routes) is fused_batch.hpp.
#pragma once

#include <span>
#include <string>

#include <sp/core/index.hpp>

namespace sp {

/// An image or video of a sample: its grid in merged tokens, the rows that it has among the visual features. Rows count frame by frame,
/// line by line.
struct visual_item {
  index_t frames = 1, height = 1, width = 1;
  bool video = false;
  float seconds = 1; ///< from one frame to the next; read where positions count time (rotary_options::time_step)
  [[nodiscard]] constexpr index_t rows() const { return checked_mul(checked_mul(frames, height), width); }
  friend constexpr bool operator==(visual_item const&, visual_item const&) = default;
};

/// What a splice is asked about: the token ids of one sample and its images in order.
struct splice_sample {
  std::span<index_t const> tokens{};
  std::span<visual_item const> items{};
  index_t number = 0;  ///< for messages: the fusion counts samples by it
  index_t prompt = -1; ///< so many of the tokens are its prompt (token type 0), for masks that ask; -1: not said

  /// Rows of the images before `item`; of all of them for items.size().
  [[nodiscard]] constexpr index_t rows_before(std::size_t item) const {
    index_t n = 0;
    for (std::size_t i = 0; i < item; ++i) n = checked_add(n, items[i].rows());
    return n;
  }
  [[nodiscard]] constexpr index_t rows() const { return rows_before(items.size()); }
};

/// Where a row of the fused stream comes from: a row of the text embeddings, of the visual features, or of the model's learned rows.
enum class row_source { text, visual, learned };

/// `count` rows of the fused stream: rows first, first + step, ... of the sample's tokens, of its visual rows (frame by frame, line by
/// line, images one behind the other), or of the learned rows. Rows that no piece names are dropped: their gradient is 0.
struct fused_piece {
  row_source from = row_source::text;
  index_t first = 0, count = 0, step = 1;
  friend constexpr bool operator==(fused_piece const&, fused_piece const&) = default;
};

/// What the queries of a sample see beside the causal mask.
struct fused_attention {
  index_t prefix = 0;            ///< so many rows at its begin are seen by all of it (prefix-LM)
  bool images_both_ways = false; ///< the rows of an image see each other in both directions
  friend constexpr bool operator==(fused_attention const&, fused_attention const&) = default;
};

namespace splice {
/// Where a splice may be given a token id and has none.
inline constexpr index_t no_token = -1;
} // namespace splice

namespace detail {
/// Stands for what a splice hands its pieces to.
struct any_add_piece {
  void operator()(fused_piece const&) const;
};
} // namespace detail

/// A splice.
///
///     pieces(sample, add)     calls add(fused_piece) for the rows of one sample, in fused order. What does not fit together it refuses by
///                             refuse_sample(sample, problem, remedy)
///
/// It may say more:
///
///     learned_rows() -> index_t                         rows of the learned table, of which pieces may take some
///     attention_of(sample) -> fused_attention           what the mask shows beside causal
template <class S>
concept splice_rule = requires(S const s, splice_sample const& sample, detail::any_add_piece add) {
  s.pieces(sample, add);
};

/// Refuses a sample: bad_documents with its number in front of `problem`, which names both numbers that disagree.
[[noreturn]] inline void refuse_sample(splice_sample const& s, std::string const& problem, std::string remedy) {
  fail({errc::bad_documents, "sample " + std::to_string(s.number) + ": " + problem, std::move(remedy)});
}

namespace detail {

/// The one sentence for what is no splice.
template <class S>
constexpr bool require_splice() {
  static_assert(
      splice_rule<S>,
      "sp::fusion: a splice says where the rows of the fused stream come from: give it pieces(sp::splice_sample const&, "
      "Add&& add) const, which calls add(sp::fused_piece) in fused order; sp::splice::placeholder is one.");
  return true;
}

template <class S>
constexpr index_t learned_rows_of(S const& s) {
  if constexpr (requires { s.learned_rows(); })
    return index_t(s.learned_rows());
  else
    return 0;
}
template <class S>
constexpr fused_attention attention_of(S const& s, splice_sample const& sample) {
  if constexpr (requires { s.attention_of(sample); })
    return s.attention_of(sample);
  else
    return {};
}

/// "2 images", "1 image".
inline std::string counted(index_t n, std::string const& what) { return std::to_string(n) + " " + what + (n == 1 ? "" : "s"); }

/// Hands on the text [from, to) if there is any.
template <class Add>
constexpr void add_text(Add& add, index_t from, index_t to) {
  if (to > from) add(fused_piece{row_source::text, from, to - from});
}

} // namespace detail
} // namespace sp
