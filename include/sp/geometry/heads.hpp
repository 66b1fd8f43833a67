// Heads in global numbers: which q heads a rank has, which kv heads they use, and how a ragged share splits into GQA calls.
// Uneven cuts and kv heads shared by several ranks are ordinary; everything is constexpr integers.
#pragma once

#include <array>
#include <string>

#include <sp/core/index.hpp>

namespace sp {

/// Global q heads [q_begin, q_begin + q_count) and the kv heads they use, [kv_begin, kv_begin + kv_count). `q_per_kv`
/// q heads share one kv head in the whole model; a share of it may hold fewer of some kv heads.
struct heads {
  index_t q_begin = 0, q_count = 0;
  index_t kv_begin = 0, kv_count = 0;
  index_t q_per_kv = 1;

  constexpr index_t q_end() const noexcept { return q_begin + q_count; }
  constexpr index_t kv_end() const noexcept { return kv_begin + kv_count; }
  /// The global number of local q head i.
  SP_BOTH constexpr index_t q_head(index_t i) const noexcept { return q_begin + i; }
  /// The local kv head that local q head i uses.
  SP_BOTH constexpr index_t kv_of(index_t i) const noexcept { return (q_begin + i) / q_per_kv - kv_begin; }
  friend constexpr bool operator==(heads const&, heads const&) = default;
};

/// All heads of a model.
[[nodiscard]] constexpr heads all_heads(index_t q_heads, index_t kv_heads) {
  if (q_heads <= 0 || kv_heads <= 0 || q_heads % kv_heads != 0)
    fail({errc::invalid_shape, std::to_string(q_heads) + " q heads on " + std::to_string(kv_heads) + " kv heads",
          "Both must be positive and q heads a multiple of kv heads"});
  return {0, q_heads, 0, kv_heads, q_heads / kv_heads};
}

namespace detail {
/// heads_of() of a part that there is.
[[nodiscard]] SP_BOTH constexpr heads share_of(heads const& whole, index_t part, index_t parts) noexcept {
  index_t const q0 = whole.q_begin + cut(whole.q_count, part, parts), q1 = whole.q_begin + cut(whole.q_count, part + 1, parts);
  index_t const kv0 = q0 / whole.q_per_kv;
  index_t const kv1 = q0 < q1 ? (q1 - 1) / whole.q_per_kv + 1 : kv0;
  return {q0, q1 - q0, kv0, kv1 - kv0, whole.q_per_kv};
}
} // namespace detail

/// Part `part` of `parts` of some heads: q heads by the one cut rule, and the kv heads they use. Cuts nest.
[[nodiscard]] constexpr heads heads_of(heads const& whole, index_t part, index_t parts) {
  if (parts <= 0 || part < 0 || part >= parts)
    fail({errc::invalid_shape, "part " + std::to_string(part) + " of " + std::to_string(parts), "0 <= part < parts"});
  return detail::share_of(whole, part, parts);
}

/// The share of rank `part` of `parts` in a model's heads.
[[nodiscard]] constexpr heads heads_of(index_t q_heads, index_t kv_heads, index_t part, index_t parts) {
  return heads_of(all_heads(q_heads, kv_heads), part, parts);
}

/// Chunk `chunk` of `chunks` of some heads: kv heads by the one cut rule, and the q heads that use them. No kv head is in two chunks.
[[nodiscard]] SP_BOTH constexpr heads chunk_of(heads const& whole, index_t chunk, index_t chunks) {
  index_t const a = whole.kv_begin + cut(whole.kv_count, chunk, chunks);
  index_t const b = whole.kv_begin + cut(whole.kv_count, chunk + 1, chunks);
  index_t const q0 = max(whole.q_begin, a * whole.q_per_kv), q1 = max(q0, min(whole.q_begin + whole.q_count, b * whole.q_per_kv));
  return {q0, q1 - q0, a, b - a, whole.q_per_kv};
}

/// An ordinary GQA call in local numbers: every q_count / kv_count q heads share one kv head.
struct gqa_range {
  index_t q_begin = 0, q_count = 0;
  index_t kv_begin = 0, kv_count = 0;
  constexpr index_t q_per_kv() const noexcept { return q_count / kv_count; }
  friend constexpr bool operator==(gqa_range const&, gqa_range const&) = default;
};

/// Up to three of them.
struct gqa_ranges {
  std::array<gqa_range, 3> list{};
  std::size_t count = 0;
  constexpr std::size_t size() const noexcept { return count; }
  constexpr gqa_range const& operator[](std::size_t i) const noexcept { return list[i]; }
  constexpr gqa_range const* begin() const noexcept { return list.data(); }
  constexpr gqa_range const* end() const noexcept { return list.data() + count; }
};

/// The heads of an ordinary GQA call in the numbers of the model, so that kv_of() holds.
[[nodiscard]] constexpr heads global_heads(heads const& share, gqa_range const& g) {
  return {share.q_begin + g.q_begin, g.q_count, share.kv_begin + g.kv_begin, g.kv_count, share.q_per_kv};
}

/// The fewest ordinary GQA calls that cover a share: only its first and its last kv head can serve fewer q heads than the others.
[[nodiscard]] constexpr gqa_ranges uniform_gqa(heads const& h) {
  gqa_ranges out;
  if (h.q_count == 0) return out;
  auto add = [&](index_t kv_first, index_t kv_last) { // kv heads [kv_first, kv_last), all serving the same number of q heads
    if (kv_first >= kv_last) return;
    index_t q0 = max(kv_first * h.q_per_kv, h.q_begin), q1 = min(kv_last * h.q_per_kv, h.q_end());
    gqa_range g{q0 - h.q_begin, q1 - q0, kv_first - h.kv_begin, kv_last - kv_first};
    if (out.count > 0) {
      gqa_range& before = out.list[out.count - 1];
      if (before.q_per_kv() == g.q_per_kv()) {
        before.q_count += g.q_count;
        before.kv_count += g.kv_count;
        return;
      }
    }
    out.list[out.count++] = g;
  };
  add(h.kv_begin, h.kv_begin + 1);
  add(h.kv_begin + 1, h.kv_end() - 1);
  if (h.kv_count > 1) add(h.kv_end() - 1, h.kv_end());
  return out;
}

} // namespace sp
