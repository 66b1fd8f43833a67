// Zigzag sharding: 2 P chunks, part p owns chunks p and 2 P - 1 - p, so that causal work is the same for every rank.
// Any length: chunk i is [floor(i n / 2P), floor((i + 1) n / 2P)).
#pragma once

#include <sp/sharding/concepts.hpp>

namespace sp {

/// 2 parts chunks; part p owns the p-th from the front and the p-th from the back: of every document by default, or of the stream.
struct zigzag {
  scope over = scope::document;

  static constexpr bool is_partition = true;
  /// Lengths that are a multiple of this give every part the same number of tokens.
  [[nodiscard]] constexpr index_t multiple(index_t parts) const { return 2 * parts; }
  [[nodiscard]] constexpr std::vector<run> runs(index_t n, index_t part, index_t parts) const {
    auto chunk = [&](index_t i) { return run{cut(n, i, 2 * parts), cut(n, i + 1, 2 * parts) - cut(n, i, 2 * parts), 1}; };
    return {chunk(part), chunk(2 * parts - 1 - part)};
  }
};
static_assert(sharding<zigzag>);

} // namespace sp
