// Heads in global numbers: which q heads a rank has, which kv heads they use, and how a ragged share splits into GQA calls.
// Uneven cuts and kv heads shared by several ranks are ordinary; everything is constexpr integers.
#pragma once

#include <array>
#include <string>

#include <sp/core/index.hpp>

namespace sp {

/// Global q heads [q_begin, q_begin + q_count) and the kv heads they use, [kv_begin, kv_begin + kv_count). `group` q heads
/// share one kv head in the whole model; a share of it may hold fewer of some groups.
struct heads {
  index q_begin = 0, q_count = 0;
  index kv_begin = 0, kv_count = 0;
  index group = 1;

  constexpr index q_end() const { return q_begin + q_count; }
  constexpr index kv_end() const { return kv_begin + kv_count; }
  /// The global number of local q head i.
  constexpr index q_head(index i) const { return q_begin + i; }
  /// The local kv head that local q head i uses.
  constexpr index kv_of(index i) const { return (q_begin + i) / group - kv_begin; }
  friend constexpr bool operator==(heads const&, heads const&) = default;
};

/// All heads of a model.
constexpr heads all_heads(index q_heads, index kv_heads) {
  if (q_heads <= 0 || kv_heads <= 0 || q_heads % kv_heads != 0)
    fail({errc::invalid_shape, std::to_string(q_heads) + " q heads on " + std::to_string(kv_heads) + " kv heads",
          "Both must be positive and q heads a multiple of kv heads"});
  return {0, q_heads, 0, kv_heads, q_heads / kv_heads};
}

/// Part `part` of `parts` of some heads: q heads by the one cut rule, and the kv heads they use. Cuts nest.
constexpr heads heads_of(heads const& whole, index part, index parts) {
  if (parts <= 0 || part < 0 || part >= parts)
    fail({errc::invalid_shape, "part " + std::to_string(part) + " of " + std::to_string(parts), "0 <= part < parts"});
  index q0 = whole.q_begin + cut(whole.q_count, part, parts), q1 = whole.q_begin + cut(whole.q_count, part + 1, parts);
  index kv0 = q0 / whole.group;
  index kv1 = q0 < q1 ? (q1 - 1) / whole.group + 1 : kv0;
  return {q0, q1 - q0, kv0, kv1 - kv0, whole.group};
}

/// The share of rank `part` of `parts` in a model's heads.
constexpr heads heads_of(index q_heads, index kv_heads, index part, index parts) {
  return heads_of(all_heads(q_heads, kv_heads), part, parts);
}

/// An ordinary GQA call in local numbers: every q_count / kv_count q heads share one kv head.
struct head_group {
  index q_begin = 0, q_count = 0;
  index kv_begin = 0, kv_count = 0;
  constexpr index group() const { return q_count / kv_count; }
  friend constexpr bool operator==(head_group const&, head_group const&) = default;
};

/// Up to three of them.
struct head_groups {
  std::array<head_group, 3> list{};
  std::size_t count = 0;
  constexpr std::size_t size() const { return count; }
  constexpr head_group const& operator[](std::size_t i) const { return list[i]; }
  constexpr head_group const* begin() const { return list.data(); }
  constexpr head_group const* end() const { return list.data() + count; }
};

/// The fewest ordinary GQA calls that cover a share: only its first and its last kv head can serve fewer q heads than the others.
constexpr head_groups uniform_groups(heads const& h) {
  head_groups out;
  if (h.q_count == 0) return out;
  auto add = [&](index kv_first, index kv_last) { // kv heads [kv_first, kv_last), all serving the same number of q heads
    if (kv_first >= kv_last) return;
    index q0 = max(kv_first * h.group, h.q_begin), q1 = min(kv_last * h.group, h.q_end());
    head_group g{q0 - h.q_begin, q1 - q0, kv_first - h.kv_begin, kv_last - kv_first};
    if (out.count > 0) {
      head_group& before = out.list[out.count - 1];
      if (before.group() == g.group()) {
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
