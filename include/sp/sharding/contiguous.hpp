// Contiguous sharding: part p owns one piece, [floor(p n / P), floor((p + 1) n / P)).
// The natural choice under Ulysses; under a causal ring the last rank works about twice as long as the mean.
#pragma once

#include <sp/sharding/concepts.hpp>

namespace sp {

/// Part p owns one piece, in order: of the whole stream by default, or of every document.
struct contiguous {
  scope over = scope::stream;

  static constexpr bool is_partition = true;
  /// Lengths that are a multiple of this give every part the same number of tokens.
  [[nodiscard]] constexpr index_t multiple(index_t parts) const { return parts; }
  [[nodiscard]] constexpr std::vector<run> runs(index_t n, index_t part, index_t parts) const {
    return {{cut(n, part, parts), cut(n, part + 1, parts) - cut(n, part, parts), 1}};
  }
};
static_assert(sharding<contiguous>);

} // namespace sp
