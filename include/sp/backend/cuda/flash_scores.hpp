// What happens to scores between the products of cuda_flash: features, mask, probabilities and their derivative.
// Scores are in units of log 2, so that probabilities are powers of two; a feature that a kernel does not have costs nothing.
#pragma once

#include <sp/backend/cuda/flash_loop.hpp>
#include <sp/backend/features.hpp>

namespace sp::detail {

inline constexpr float log2_of_e = 1.44269504088896340736f, ln_of_2 = 0.69314718055994530942f;

/// The features of a kernel as work of a queue has them.
template <class... Features>
struct flash_features {
  using mod = score_mod<float, Features...>;
  static constexpr bool plain = sizeof...(Features) == 0;

  mod numbers{};                 ///< what does not depend on head and document
  float const* slopes = nullptr; ///< by global q head
  random_key random{};
  float scale = 1;

  SP_DEVICE mod of(index_t q_head, flash_tile const& t) const {
    mod r = numbers;
    if constexpr (mod::biased) r.slope = slopes[q_head];
    if constexpr (mod::drops) r.site = site_key(random, static_cast<index_t>(std::uint64_t{t.id_high} << 32 | t.id_low), q_head);
    return r;
  }

  /// Whether products of query and key take the place of scores, which are unit() times as large: the factor comes with the subtraction of
  /// the maximum. Not for a scale that is not positive, because the largest product is the largest score then.
  SP_DEVICE bool products_are_scores() const { return plain && scale > 0; }
  SP_DEVICE float unit() const { return products_are_scores() ? scale * log2_of_e : 1.0f; }

  /// A product of query and key as a score in units of log 2; `derivative` becomes d score / d scaled product, in units of e.
  SP_DEVICE float score(mod const& modify, float product, int q, int k, float& derivative) const {
    if constexpr (plain) {
      derivative = 1;
      return product * (scale * log2_of_e);
    } else {
      return modify(product * scale, float(int(unsigned(k) - unsigned(q))), derivative) * log2_of_e;
    }
  }
};

/// The columns that one row sees by one slice: offsets first ... first + count - 1.
struct flash_seen {
  unsigned first, count;
  SP_DEVICE bool has(int column) const { return unsigned(column) - first < count; }
};
SP_DEVICE inline flash_seen seen_by(flash_slice const& s, int row) {
  if (row < s.r0 || row >= s.r1) return {0, 0};
  int const a = row + s.lo > s.c0 ? row + s.lo : s.c0, b = row + s.hi + 1 < s.c1 ? row + s.hi + 1 : s.c1;
  return {unsigned(a), a < b ? unsigned(b) - unsigned(a) : 0u};
}

/// Which of a thread's columns of a row of flash_tile_of_sums<., N> the row at offset `row` sees: bit 2 n + c. `offset` is by column.
template <int N>
SP_DEVICE unsigned flash_visible(flash_lists const& lists, flash_range const& r, int row, int const* offset, int lane) {
  static_assert(N <= 16);
  unsigned visible = 0;
  for (int i = 0; i < r.slices; ++i) {
    flash_seen const seen = seen_by(lists.slices(r.first_slice)[i], row);
    SP_UNROLL
    for (int n = 0; n < N; ++n) {
      SP_UNROLL
      for (int c = 0; c < 2; ++c) visible |= unsigned{seen.has(offset[8 * n + 2 * (lane % 4) + c])} << (2 * n + c);
    }
  }
  return visible;
}

/// Over the four lanes that have a row.
template <class Block>
SP_DEVICE float largest_of_row(Block& b, float x) {
  x = max_of(x, b.shuffle_xor(x, 1));
  return max_of(x, b.shuffle_xor(x, 2));
}
template <class Block>
SP_DEVICE float sum_of_row(Block& b, float x) {
  x = x + b.shuffle_xor(x, 1);
  return x + b.shuffle_xor(x, 2);
}

/// lse in units of log 2, for probabilities: of a row that sees nothing, or is none, so large that they are 0.
SP_DEVICE inline float flash_lse(float natural) {
  return is_minus_infinity(natural) ? -minus_infinity<float> : natural * log2_of_e;
}

/// A product of query and key and one of dout and value become the probability (times the dropout factor `keep`) and the gradient of the
/// scaled product of query and key.
template <class Block, class Features>
SP_DEVICE void probability_and_gradient(Block& b, Features const& f, typename Features::mod const& modify, float& product,
                                        float& grad, int q, int k, float lse, float delta, float keep) {
  float derivative = 1;
  float const p = b.exp2(f.score(modify, product, q, k, derivative) - lse);
  float const ds = Features::mod::drops ? p * (keep * grad - delta) : p * (grad - delta);
  product = Features::mod::drops ? p * keep : p;
  grad = Features::plain ? ds : ds * derivative;
}

} // namespace sp::detail
