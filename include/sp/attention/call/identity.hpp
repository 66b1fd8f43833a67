// Whose a geometry is and whose a `saved`: a few numbers that every call compares before anything is computed or sent.
// Two that are equal may stand for each other; shapes alone cannot tell the rows of one rank, batch or mask from those of another.
#pragma once

#include <string>

#include <sp/core/digest.hpp>
#include <sp/core/error.hpp>
#include <sp/core/philox.hpp>

namespace sp::detail {

/// Of what a geometry was made, and by what kind of object. By value, so that all layers of a rank share one geometry, and one that
/// is made again is the same.
struct geometry_identity {
  std::uint64_t queries = 0, keys = 0; ///< serials of the batches
  std::uint64_t mask = 0;              ///< its digest
  std::uint64_t maker = 0;             ///< digest of rank and size in every group, of schedule and kernel; 0: nobody
  std::int64_t rank = -1, ranks = 0;   ///< in the whole sequence, for messages
  friend constexpr bool operator==(geometry_identity const&, geometry_identity const&) = default;
};

/// Which forward call a `saved` comes from. Copies of an object have its number; what it saved depends on all of its options.
struct saved_origin {
  geometry_identity geometry{};
  std::uint64_t object = 0;
  random_key random{}; ///< what it drew its random numbers with
};

/// A geometry that an object like `mine` would not prepare.
[[noreturn]] inline void fail_made_elsewhere(geometry_identity const& g, geometry_identity const& mine) {
  auto place = [](std::int64_t r, std::int64_t n) { return "rank " + std::to_string(r) + " of " + std::to_string(n); };
  fail({errc::bad_state,
        g.maker == 0 ? "this geometry was not made by prepare()"
        : g.rank != mine.rank || g.ranks != mine.ranks
            ? "this geometry was prepared by " + place(g.rank, g.ranks) + " of a sequence, this object is " +
                  place(mine.rank, mine.ranks)
            : "this geometry was prepared by an object with another place in its groups, another schedule or another kernel",
        "Prepare with this object, or with one of the same groups, schedule and kernel"});
}

/// bad_state unless `s` was saved by this object under the geometry `now`.
inline void require_same_origin(saved_origin const& s, geometry_identity const& now, std::uint64_t object) {
  if (s.object == object && s.geometry == now) [[likely]]
    return;
  geometry_identity const& then = s.geometry;
  auto batches = [](geometry_identity const& g) {
    return std::to_string(g.queries) + (g.keys == g.queries ? "" : " with keys of " + std::to_string(g.keys));
  };
  fail({errc::bad_state,
        then.queries != now.queries || then.keys != now.keys
            ? "saved belongs to another batch: to number " + batches(then) + ", this call is on number " + batches(now)
        : then.mask != now.mask ? "saved belongs to a forward call under another mask"
        : then.maker != now.maker
            ? "saved belongs to an object with another place in its groups, another schedule or another kernel"
            : "saved belongs to another object",
        "Pass the saved that forward of the same object, batch and mask returned; copies of an object count as the same"});
}

/// bad_state if backward would draw other random numbers than forward drew.
inline void require_same_key(random_key forward, random_key backward) {
  if (forward == backward) [[likely]]
    return;
  auto text = [](random_key k) { return "{" + std::to_string(k.seed) + ", " + std::to_string(k.layer) + "}"; };
  fail({errc::bad_state,
        "forward drew its random numbers with the key " + text(forward) + ", backward was given " + text(backward),
        "Give backward the key {seed, layer} of its forward call: in the context, or among the operands of a short-form call"});
}

} // namespace sp::detail
