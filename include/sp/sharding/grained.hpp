// Grained sharding: `outer` cuts units of several rows instead of rows, so that rows that are merged later stay on one rank.
// Units are counted from behind the prefix rows of a document; these go to whoever owns the first unit.
#pragma once

#include <string>

#include <sp/sharding/concepts.hpp>

namespace sp {

/// grained{contiguous{}, 4}: runs begin and end at multiples of 4 rows, as the patches that a 2 x 2 merge makes one token of ask for.
/// `prefix` rows (class and register tokens) stand before the units of each document. uneven_partition where what is behind the prefix
/// is no multiple of `grain`, and for a prefix over the stream, in which documents do not begin. It goes around what it cuts with:
/// grained{nested{zigzag{}, 2}, 4}.
template <sharding Outer>
struct grained {
  Outer outer{};
  index_t grain = 1;  ///< rows of a unit
  index_t prefix = 0; ///< rows of a document before its first unit
  scope over = outer.over;

  static constexpr bool is_partition = requires { requires Outer::is_partition; };
  /// uneven_partition with a prefix, whose rows no padding can spread.
  [[nodiscard]] constexpr index_t multiple(index_t parts) const requires requires(Outer const& o) { o.multiple(parts); }
  {
    check();
    if (prefix > 0)
      fail({errc::uneven_partition, std::to_string(prefix) + " prefix rows belong to one rank of " + std::to_string(parts),
            "Use shapes::ragged, or vit_attention, whose prefix rows belong to no rank"});
    return checked_mul(outer.multiple(parts), grain);
  }
  [[nodiscard]] constexpr std::vector<run> runs(index_t n, index_t part, index_t parts) const {
    check();
    check_document(n);
    index_t const units = max(0, n - prefix) / grain;
    std::vector<run> const of_units = outer.runs(units, part, parts);
    bool first = units == 0 && part == 0;
    for (run const& r : of_units) first = first || r.contains(0);
    std::vector<run> mine;
    if (first && n > 0) append(mine, {0, prefix, 1});
    for (run const& r : of_units) {
      if (r.stride == 1 || grain == 1)
        append(mine, {prefix + r.begin * grain, r.count * grain, r.stride});
      else
        for (index_t i = 0; i < r.count; ++i) append(mine, {prefix + r.at(i) * grain, grain, 1});
    }
    return mine;
  }
  /// uneven_partition unless `n` rows are the prefix and whole units, or none. A layout over the stream asks it of each document.
  constexpr void check_document(index_t n) const {
    if (n > 0 && (n < prefix || (n - prefix) % grain != 0))
      fail({errc::uneven_partition,
            std::to_string(n) + " rows are not " + std::to_string(prefix) + " prefix rows and units of " + std::to_string(grain),
            "Make the rows behind the prefix a multiple of the grain: for merges of m x m patches, height and width multiples of "
            "m"});
  }

private:
  constexpr void check() const {
    if (grain < 1 || prefix < 0)
      fail({errc::uneven_partition, "units of " + std::to_string(grain) + " rows behind a prefix of " + std::to_string(prefix),
            "Give a grain of at least 1 and a prefix of at least 0"});
    if (prefix > 0 && over == scope::stream)
      fail({errc::uneven_partition, "a prefix of " + std::to_string(prefix) + " rows in a cut over the stream",
            "Cut documents, each of which has a prefix: scope::document"});
  }
};
template <class Outer, class... N>
grained(Outer, N...) -> grained<Outer>;

} // namespace sp
