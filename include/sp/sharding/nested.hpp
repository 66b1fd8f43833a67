// Nested sharding: `outer` cuts for parts / inner groups, each group's rows are cut again into `inner` contiguous pieces of its
// local order. With zigzag outside this is the USP order: after the all-to-all a ring rank holds its whole zigzag shard.
#pragma once

#include <sp/sharding/concepts.hpp>

namespace sp {

/// nested{zigzag{}, 4}: 4 ranks of a Ulysses group share one zigzag shard. `stride` is the distance between the members of an
/// inner group: 1 when they are neighbours (the default), the ring's size when ring ranks are neighbours.
template <sharding Outer>
struct nested {
  Outer outer{};
  index_t inner = 1;
  index_t stride = 1;
  scope over = outer.over;

  static constexpr bool is_partition = requires { requires Outer::is_partition; };
  [[nodiscard]] constexpr index_t multiple(index_t parts) const requires requires(Outer const& o) { o.multiple(parts); }
  {
    check(parts);
    return checked_mul(outer.multiple(parts / inner), inner);
  }
  [[nodiscard]] constexpr std::vector<run> runs(index_t n, index_t part, index_t parts) const {
    check(parts);
    index_t member = part / stride % inner;
    index_t group = part / (stride * inner) * stride + part % stride;
    std::vector<run> whole = outer.runs(n, group, parts / inner), mine;
    index_t rows = count_of(whole), first = cut(rows, member, inner), last = cut(rows, member + 1, inner), row = 0;
    for (run const& r : whole) {
      index_t a = max(first - row, 0), b = min(last - row, r.count);
      if (a < b) mine.push_back(r.sub(a, b - a));
      row += r.count;
    }
    return mine;
  }
  /// uneven_partition unless the ranks divide into the groups.
  constexpr void check(index_t parts) const {
    if (inner < 1 || stride < 1 || parts < 1 || parts % checked_mul(inner, stride) != 0)
      fail({errc::uneven_partition,
            std::to_string(parts) + " ranks do not divide into groups of " + std::to_string(inner) + " at distance " +
                std::to_string(stride),
            "Make the ranks a multiple of the inner degree times its stride"});
  }
};
template <class Outer, class... N>
nested(Outer, N...) -> nested<Outer>;

} // namespace sp
