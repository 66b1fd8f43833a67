// Features of an attention kernel: softcap, ALiBi, dropout. Each is a type; a kernel takes a pack of them.
// The one place where a scaled score becomes a modified score and where its derivative and dropout factors come from.
#pragma once

#include <concepts>
#include <span>

#include <sp/core/digest.hpp>
#include <sp/core/dtype.hpp>
#include <sp/core/philox.hpp>
#include <sp/core/real.hpp>
#include <sp/geometry/heads.hpp>

namespace sp {

/// S = cap tanh(x / cap) of the scaled score x; applied first. cap > 0.
struct softcap {
  double cap = 0;
};

/// S += slope (k offset - q offset), offsets in the document as the mask aligns queries and keys (mask.at): a decode query stands on
/// the last key. Attention with linear biases (Press et al.).
struct alibi {
  std::span<float const> slopes; ///< by GLOBAL q head; borrowed
};

/// Each probability is dropped with chance p, the others grow by 1 / (1 - p); lse is that of all. Keyed by (seed, layer, the
/// caller's document id, global q head, q offset, k offset): the same for every sharding, packing order and data split.
struct dropout {
  double p = 0;
};

namespace detail {

template <class F>
inline constexpr bool is_feature = std::same_as<F, softcap> || std::same_as<F, alibi> || std::same_as<F, dropout>;

template <class F, class... Features>
inline constexpr int count_feature = (0 + ... + int(std::same_as<F, Features>));

/// How one q head of one document modifies scores (what FlexAttention calls a score_mod). A is the type of scores, V is A or a vector
/// of A.
template <class A, class... Features>
struct score_mod {
  static constexpr bool capped = count_feature<softcap, Features...> > 0;
  static constexpr bool biased = count_feature<alibi, Features...> > 0;
  static constexpr bool drops = count_feature<dropout, Features...> > 0;

  A cap = 1, inverse_cap = 1, slope = 0, keep_scale = 1;
  float p = 0;
  random_site site{};

  /// The modified score; `distance` is k offset - q offset. `derivative` becomes d modified / d scaled.
  template <class V>
  SP_BOTH V operator()(V scaled, [[maybe_unused]] V distance, V& derivative) const {
    derivative = V(A(1));
    if constexpr (capped) {
      V t = tanh_of(scaled * V(inverse_cap));
      scaled = V(cap) * t;
      derivative = V(A(1)) - t * t;
    }
    if constexpr (biased) scaled = scaled + V(slope) * distance;
    return scaled;
  }

  /// Dropout factors of one query row: 0, or keep_scale = 1 / (1 - p). Quickest where key offsets ascend.
  struct dropout_row {
    score_mod const& of;
    index_t q_offset;
    index_t quad = -1; // four keys share one generator call
    std::array<float, 4> numbers{};

    SP_BOTH A operator()(index_t k_offset) {
      if (k_offset / 4 != quad) {
        quad = k_offset / 4;
        numbers = uniforms4(of.site, q_offset, quad);
      }
      return SP_ENTRIES(numbers)[std::size_t(k_offset % 4)] < of.p ? A(0) : of.keep_scale;
    }
  };
  SP_BOTH dropout_row dropout_of_row(index_t q_offset) const { return {*this, q_offset}; }
};

/// The features of a kernel, with their numbers.
template <class... Features>
struct feature_set : Features... {
  static_assert((is_feature<Features> && ...), "sp: a kernel feature must be sp::softcap, sp::alibi or sp::dropout");
  static_assert(((count_feature<Features, Features...> == 1) && ...), "sp: a kernel feature is given twice; pass each one once");

  /// invalid_shape for numbers that make no sense; `whole` are the heads of the model.
  void check([[maybe_unused]] heads whole) const {
    if constexpr (count_feature < softcap, Features... >> 0)
      if (!(softcap::cap > 0))
        fail({errc::invalid_shape, "softcap " + std::to_string(softcap::cap),
              "The cap is positive; leave the feature out for none"});
    if constexpr (count_feature < dropout, Features... >> 0)
      if (!(dropout::p >= 0 && dropout::p < 1))
        fail({errc::invalid_shape, "dropout " + std::to_string(dropout::p), "The chance is in [0, 1)"});
    require_slopes(whole.q_end());
  }

  /// For comparing ranks: the features and their numbers.
  std::uint64_t digest_of_features() const {
    digest d;
    d.add(sizeof...(Features));
    if constexpr (count_feature < softcap, Features... >> 0) d.add(1).add(softcap::cap);
    if constexpr (count_feature < dropout, Features... >> 0) d.add(2).add(dropout::p);
    if constexpr (count_feature < alibi, Features... >> 0) {
      d.add(3).add(alibi::slopes.size());
      for (float s : alibi::slopes) d.add(double(s));
    }
    return d.value();
  }
  static constexpr bool draws_random_numbers = count_feature<dropout, Features...> > 0;

  /// The features as they act on one head of one document.
  template <class A>
  score_mod<A, Features...> for_head([[maybe_unused]] index_t q_head, [[maybe_unused]] index_t document,
                                     [[maybe_unused]] random_key key) const {
    using mod = score_mod<A, Features...>;
    mod r;
    if constexpr (mod::capped) {
      r.cap = A(softcap::cap);
      r.inverse_cap = A(1 / softcap::cap);
    }
    if constexpr (mod::biased) {
      require_slopes(q_head + 1);
      r.slope = A(alibi::slopes[std::size_t(q_head)]);
    }
    if constexpr (mod::drops) {
      r.p = float(dropout::p);
      r.keep_scale = dropout::p < 1 ? A(1 / (1 - dropout::p)) : A(0);
      r.site = site_key(key, document, q_head);
    }
    return r;
  }

private:
  void require_slopes([[maybe_unused]] index_t q_heads) const {
    if constexpr (count_feature < alibi, Features... >> 0)
      if (index_t(alibi::slopes.size()) < q_heads)
        fail({errc::invalid_shape,
              "q head " + std::to_string(alibi::slopes.size()) + " has no slope, " + std::to_string(alibi::slopes.size()) +
                  " were given",
              "sp::alibi takes one slope for every q head of the model"});
  }
};

/// The base of a kernel with features, which answers for them.
template <class... Features>
class with_features {
public:
  /// Refuses feature numbers that make no sense for these (global) heads.
  void check(heads whole) const { features_.check(whole); }
  /// What ranks compare at check level 2: the features with their numbers, and whether the random key counts.
  [[nodiscard]] std::uint64_t features() const { return features_.digest_of_features(); }
  static constexpr bool draws_random_numbers = feature_set<Features...>::draws_random_numbers;
  /// Whether results depend on where queries stand even if every key is seen, so that a mask must say it where counts differ.
  static constexpr bool needs_alignment = count_feature<alibi, Features...> > 0;

protected:
  constexpr explicit with_features(Features... features) : features_{features...} {}

  feature_set<Features...> features_;
};

} // namespace detail
} // namespace sp
