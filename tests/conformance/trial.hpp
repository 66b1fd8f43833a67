// A trial: one case of the conformance matrix as plain numbers, which draw.hpp makes of a 64-bit seed.
// The mask is written twice: as an sp::mask, and as a predicate of global positions that knows nothing of slices.
#pragma once

#include <array>
#include <cmath>
#include <set>
#include <string>

#include <sp/batch.hpp>
#include <sp/ring.hpp>
#include <sp/ulysses.hpp>

#include "support/sharding.hpp"

namespace conformance {

using sp::index_t;
using support::any_sharding;

enum class object_kind { ring, ulysses, usp, nested }; ///< nested: Ulysses around USP

struct trial {
  std::uint64_t seed = 0;
  object_kind object = object_kind::ring;
  int ranks = 1, ring = 1, ulysses = 1;
  bool ring_is_fast = false; ///< mesh order ulysses x ring: ulysses groups are strided
  int outer = 1;             ///< nested: ranks of the outer Ulysses; `ulysses` counts both degrees
  int outer_place = 0;       ///< nested: its axis is the slowest, in the middle or the fastest: 0, 1, 2
  bool keep_inner = false;   ///< nested: the inner Ulysses keeps its heads
  sp::schedule how = sp::schedule::rotate;
  index_t head_chunks = 1;
  sp::keep keep = sp::keep::heads;
  index_t ulysses_chunks = 1;
  any_sharding sharding{}, key_sharding{}; ///< the keys' own counts in cross attention
  bool padded = false, key_padded = false;
  bool any_order = false; ///< rows of a rank stand in no order of positions
  index_t q_heads = 1, kv_heads = 1, dim = 1, value_dim = 1;
  double scale = 0, loud = 1, softcap = 0, dropout = 0;
  double start = 0;       ///< what gradients hold that are added to
  double sink_size = 0.5; ///< sinks are normally distributed, times this
  int checks = 1;         ///< the check level
  bool alibi = false, sinks = false, featured = false, accumulate = false, short_form = false;
  bool twice = false; ///< on threads: two threads of each rank run the step at the same time, in groups of their own
  unsigned order = 0; ///< memory order of tensors, and which of their dimensions stand backwards
  bool plain = false; ///< elements of a head follow each other, rows and heads ascend: what some kernels ask for
  bool cross = false;
  sp::documents docs{}, key_docs{};
  sp::mask mask{};
  int mask_kind = 0, document_kind = 0;

  static constexpr std::size_t dimensions = 11;
  std::array<int, dimensions> drawn{}, choices{}; ///< what the covering sample pairs up: value i of choices[i]

  static constexpr unsigned orders = 36;

  /// Of one of the tensors.
  unsigned order_of(unsigned tensor) const { return plain ? tensor % 3 % 2 : tensor; }
  sp::documents const& keys() const { return cross ? key_docs : docs; }
  any_sharding const& sharding_of_keys() const { return cross ? key_sharding : sharding; }
  bool keys_are_padded() const { return cross ? key_padded : padded; }
  double score_scale() const { return scale != 0 ? scale : 1 / std::sqrt(double(dim)); }
  sp::random_key random() const { return {seed, 3}; }

  /// Whether query position i may see key position j, from positions, documents and the rule alone.
  bool sees(index_t i, index_t j) const {
    if (mask.only_user) {
      for (auto const& s : mask.user)
        if (s.q0 <= i && i < s.q1 && s.k0 <= j && j < s.k1 && s.lo <= j - i && j - i <= s.hi) return true;
      return false;
    }
    for (std::size_t d = 0; d < docs.size(); ++d) {
      sp::document const &q = docs[d], &k = keys()[d];
      if (i < q.begin || i >= q.begin + q.count || j < k.begin || j >= k.begin + k.count) continue;
      if (!mask.prefix.empty() && j - k.begin < mask.prefix[d]) return true;
      index_t const shift = mask.at == sp::align::end ? k.count - q.count : 0;
      index_t const stands = k.begin + (i - q.begin) + shift, distance = j - stands; // the query's place among the keys
      for (auto const& s : mask.spans)
        if (s.k0 <= stands && stands < s.k1 && s.k0 <= j && j < s.k1) return true;
      return mask.lo <= distance && distance <= mask.hi;
    }
    return false;
  }

  std::string describe() const {
    auto n = [](auto x) { return std::to_string(x); };
    std::string s = describe_ranks() + ", " + describe(sharding, padded);
    if (cross) s += ", keys " + describe(key_sharding, key_padded);
    s += ", mask kind " + n(mask_kind) + ", heads " + n(q_heads) + "/" + n(kv_heads) + ", dims " + n(dim) + "/" + n(value_dim) +
         ", softcap " + n(softcap) + ", dropout " + n(dropout) + (alibi ? ", alibi" : "") +
         (sinks ? ", sinks of " + n(sink_size) : "") + (accumulate ? ", accumulate from " + n(start) : "") +
         (short_form ? ", short form" : "") + (any_order ? ", rows in any order" : "") + ", scale " + n(scale) + ", loud " +
         n(loud) + ", order " + n(order) + ", checks " + n(checks) + (twice ? ", twice" : "") + ", documents" + describe(docs);
    return cross ? s + ", keys" + describe(key_docs) : s;
  }

private:
  std::string describe_ranks() const {
    static constexpr char const* objects[] = {"ring", "ulysses", "usp", "nested"};
    static constexpr char const* schedules[] = {"automatic", "rotate", "cast", "pull", "pass_q"};
    auto n = [](auto x) { return std::to_string(x); };
    return std::string(objects[int(object)]) + " P " + n(ranks) + " (ring " + n(ring) + " ulysses " + n(ulysses) +
           (ring_is_fast ? " strided" : "") + (outer > 1 ? " of which outside " + n(outer) + " at axis " + n(outer_place) : "") +
           (keep_inner ? ", inner heads kept" : "") + "), " + schedules[int(how)] + ", head chunks " + n(head_chunks) +
           ", keep " + (keep == sp::keep::heads ? "heads" : "output") + " in chunks " + n(ulysses_chunks);
  }
  static std::string describe(any_sharding const& s, bool with_padding) {
    static constexpr char const* names[] = {"contiguous", "zigzag", "striped"};
    return std::string(names[s.kind]) + (s.over == sp::scope::stream ? " over the stream" : "") +
           (with_padding ? " padded" : "") +
           (s.inner > 1 ? " nested " + std::to_string(s.inner) + " by " + std::to_string(s.stride) : "");
  }
  static std::string describe(sp::documents const& list) {
    std::string s;
    for (auto const& d : list) {
      s += " [" + std::to_string(d.begin) + " +" + std::to_string(d.count);
      s += (d.room > d.count ? " of " + std::to_string(d.room) : "") + ")";
    }
    return s;
  }
};

/// Whether several ulysses ranks compute with one kv head; counted head by head.
inline bool shares_kv_heads(trial const& t) {
  index_t copies = 0, group = t.q_heads / t.kv_heads;
  for (int r = 0; r < t.ulysses; ++r) {
    std::set<index_t> mine;
    for (index_t h = r * t.q_heads / t.ulysses; h < (r + 1) * t.q_heads / t.ulysses; ++h) mine.insert(h / group);
    copies += index_t(mine.size());
  }
  return copies != t.kv_heads;
}

} // namespace conformance
