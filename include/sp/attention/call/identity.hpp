// What a prepared geometry was made of, and what a `saved` comes from: a few numbers that every call compares on its own rank.
// Two that are equal may stand for each other; shapes alone cannot tell the rows of one rank, batch or mask from those of another.
#pragma once

#include <string>

#include <sp/attention/call/options.hpp>
#include <sp/core/digest.hpp>
#include <sp/core/error.hpp>
#include <sp/core/group_place.hpp>
#include <sp/core/philox.hpp>

namespace sp::detail {

/// Of what a geometry was made, and by what kind of object. By value, so that all layers of a rank share one geometry, and one that
/// is made again is the same: it depends on nothing else.
struct geometry_identity {
  std::uint64_t queries = 0, keys = 0; ///< serials of the batches
  std::uint64_t mask = 0;              ///< its digest
  std::uint64_t configuration = 0;     ///< digest of rank and size in every group, of schedule and kernel; 0: never prepared
  group_place place{};                 ///< in the whole sequence, for messages
  friend constexpr bool operator==(geometry_identity const&, geometry_identity const&) = default;
};

/// Which forward call a `saved` comes from. The object counts by its number, which its copies share, and not by value as geometry
/// does: two layers have equal options and different tensors, and the `saved` of one must not pass for that of the other.
struct saved_origin {
  geometry_identity geometry{};
  std::uint64_t object = 0;
  attention_shape shape{}; ///< of its tensors
  bool sinks = false;      ///< whether it was given any
  random_key random{};     ///< what it drew its random numbers with
};

/// bad_state unless `g` was prepared by an object of the configuration of `mine`: of equal place, schedule and kernel.
inline void require_same_configuration(geometry_identity const& g, geometry_identity const& mine) {
  if (g.configuration == mine.configuration) [[likely]]
    return;
  fail({errc::bad_state,
        g.configuration == 0 ? "this geometry was not made by prepare(), or refreshing it failed"
        : g.place != mine.place
            ? "this geometry was prepared by " + g.place.text() + " of a sequence, this object is " + mine.place.text()
            : "this geometry was prepared by an object with another place in its groups, another schedule or another kernel",
        "Prepare with this object, or with one of the same groups, schedule and kernel"});
}

/// bad_state unless `s` was saved by the object and under the geometry of the call `c`.
inline void require_same_origin(saved_origin const& s, saved_origin const& c) {
  if (s.object == c.object && s.geometry == c.geometry) [[likely]]
    return;
  geometry_identity const &then = s.geometry, &now = c.geometry;
  auto batches = [](geometry_identity const& g) {
    return std::to_string(g.queries) + (g.keys == g.queries ? "" : " with keys of " + std::to_string(g.keys));
  };
  fail({errc::bad_state,
        then.queries != now.queries || then.keys != now.keys
            ? "saved belongs to another batch: to number " + batches(then) + ", this call is on number " + batches(now)
        : then.mask != now.mask ? "saved belongs to a forward call under another mask"
        : then.configuration != now.configuration
            ? "saved belongs to an object with another place in its groups, another schedule or another kernel"
            : "saved belongs to another object",
        "Pass the saved that forward of the same object, batch and mask returned; copies of an object count as the same"});
}

/// bad_state unless `s` was saved for tensors of the shape of the call `c`, and with sinks if that has any. All that forward kept
/// follows from these, from object and geometry.
inline void require_same_tensors(saved_origin const& s, saved_origin const& c) {
  if (s.shape == c.shape && s.sinks == c.sinks) [[likely]]
    return;
  auto difference = [](char const* what, index_t then, index_t now) {
    return "forward was given " + std::string(what) + " " + std::to_string(then) + ", backward " + std::to_string(now);
  };
  attention_shape const &then = s.shape, &now = c.shape;
  fail({errc::bad_state,
        then.q_heads != now.q_heads       ? difference("q heads", then.q_heads, now.q_heads)
        : then.kv_heads != now.kv_heads   ? difference("kv heads", then.kv_heads, now.kv_heads)
        : then.dim != now.dim             ? difference("dim", then.dim, now.dim)
        : then.value_dim != now.value_dim ? difference("value dim", then.value_dim, now.value_dim)
        : s.sinks                         ? std::string("forward was given sinks, backward was not")
                                          : std::string("backward was given sinks, forward was not"),
        "Give backward the q, k, v and sinks of the forward call that returned saved"});
}

/// bad_state if backward would draw other random numbers than forward drew.
inline void require_same_key(random_key forward, random_key backward) {
  if (forward == backward) [[likely]]
    return;
  auto text = [](random_key k) {
    return "{" + std::to_string(k.seed) + ", " + std::to_string(k.layer) + (k.step ? ", a step counter}" : "}");
  };
  fail({errc::bad_state,
        "forward drew its random numbers with the key " + text(forward) + ", backward was given " + text(backward),
        "Give backward the key {seed, layer} of its forward call, and let no step counter move on in between: in the context, or "
        "among the operands of a short-form call"});
}

} // namespace sp::detail
