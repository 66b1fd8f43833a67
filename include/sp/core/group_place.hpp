// A rank's place in a group, kept with whatever is made for one rank of one group: plans, relayouts, geometry, losses.
// Shapes cannot tell what belongs to another rank or to a group of another size; these two numbers can, in a comparison.
#pragma once

#include <string>

#include <sp/core/digest.hpp>

namespace sp::detail {

/// Nowhere as long as size is 0: what was never made for a group.
struct group_place {
  int rank = -1, size = 0;

  /// Of anything with rank() and size(): a communicator, a group of a mesh.
  template <class Ranks>
  static constexpr group_place in(Ranks const& ranks) {
    return {int(ranks.rank()), int(ranks.size())};
  }
  constexpr bool nowhere() const noexcept { return size == 0; }
  constexpr void add_to(digest& d) const { d.add(rank).add(size); }
  std::string text() const { return "rank " + std::to_string(rank) + " of " + std::to_string(size); }
  friend constexpr bool operator==(group_place const&, group_place const&) = default;
};

} // namespace sp::detail
