// Striped sharding: part p owns tokens p, p + P, p + 2P, ...: causal work balanced to within one token per row.
// Any length; the parts differ by one token at most.
#pragma once

#include <sp/sharding/concepts.hpp>

namespace sp {

/// Part p owns positions p, p + parts, p + 2 parts, ...: of every document by default, or of the whole stream.
struct striped {
  scope over = scope::document;

  static constexpr bool is_partition = true;
  /// Lengths that are a multiple of this give every part the same number of tokens.
  [[nodiscard]] constexpr index_t multiple(index_t parts) const { return parts; }
  [[nodiscard]] constexpr std::vector<run> runs(index_t n, index_t part, index_t parts) const {
    return {{part, n > part ? (n - part - 1) / parts + 1 : 0, parts}};
  }
};
static_assert(sharding<striped>);

} // namespace sp
