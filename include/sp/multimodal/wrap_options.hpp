// How a model is wrapped: strategy of each role, and the degrees that follow from it, from the model's heads and from the ranks.
// Pure arithmetic, the same on every rank.
#pragma once

#include <sp/attention/ulysses.hpp>
#include <sp/mesh/derive.hpp>
#include <sp/multimodal/roles.hpp>

namespace sp {

/// Which attention object goes into the slots of a role.
enum class strategy {
  automatic, ///< the degrees of the mesh, where one is given; else those of sp::derive for the heads of all slots of the role
  ulysses,   ///< Ulysses over all ranks of the sequence
  ring,      ///< a ring over all ranks of the sequence
  usp,       ///< Ulysses inside of a ring
};

/// Of the slots of one role.
struct role_options {
  sp::strategy strategy = strategy::automatic;
  int ulysses = 0;           ///< usp: ranks of a Ulysses group, a divisor of all; 0: those of the mesh, or of sp::derive
  bool uneven_heads = false; ///< automatic, with a kernel that returns no lse: Ulysses may cut heads unevenly
  sp::schedule schedule = schedule::automatic; ///< of rings
  index_t head_chunks = 1;                     ///< of rings and of Ulysses
  sp::keep keep = keep::heads;                 ///< of Ulysses
};

/// What auto_wrap is told. One value for all ranks.
struct wrap_options {
  role_options vision{};
  role_options text{};
  role_options others{}; ///< of roles of your own
  int checks =
      1; ///< check level of all objects: attention_options::checks; of all other slots unless theirs is higher; linear slots know 1 and 2
};

namespace detail {

/// Which entry of wrap_options is for a role.
template <class Role>
inline constexpr int role_index = std::is_same_v<Role, vision_role> ? 0
                                  : std::is_same_v<Role, text_role> ? 1
                                                                    : 2;
inline constexpr int role_count = 3;
inline role_options const& options_of(wrap_options const& o, int role) {
  return role == 0 ? o.vision : role == 1 ? o.text : o.others;
}

/// Ranks of one sequence: ring x ulysses.
struct sequence_degrees {
  int ulysses = 1, ring = 1;
  friend constexpr bool operator==(sequence_degrees const&, sequence_degrees const&) = default;
};

/// The degrees of a mesh, and in which order its axes are.
struct mesh_degrees {
  sequence_degrees degrees;
  bool ulysses_first = false;
};

/// What was learnt about the slots of one role.
struct role_census {
  char const* role = "";
  std::string first{};              ///< path of one of them
  std::string silent{};             ///< path of one that does not say its heads; empty: all do
  std::vector<head_shape> shapes{}; ///< those that do, each once
  index_t slots = 0;

  void add(char const* name, std::string const& path, head_shape const& h) {
    if (slots++ == 0) role = name, first = path;
    if (h.q_heads == 0) {
      if (silent.empty()) silent = path;
      return;
    }
    for (head_shape const& s : shapes)
      if (s.q_heads == h.q_heads && s.kv_heads == h.kv_heads) return;
    shapes.push_back(h);
  }
};

inline void require_heads(role_census const& c, int ranks) {
  if (!c.silent.empty())
    fail({errc::bad_state,
          "slot " + c.silent + " does not say how many heads it has, so degrees for " + std::to_string(ranks) +
              " ranks cannot be derived",
          "Make it with {.q_heads = ..., .kv_heads = ...}, choose strategy::ulysses or strategy::ring, or give a mesh"});
}

/// The degrees of a role's slots. can_ring: the kernel's results over different keys can be merged. meshed: null without a mesh.
inline sequence_degrees chosen_degrees(role_census const& c, int ranks, role_options const& o, bool can_ring,
                                       sequence_degrees const* meshed) {
  auto refuse_ring = [&](int ring) {
    if (ring > 1 && !can_ring)
      fail({errc::unsupported,
            std::string(c.role) + " slots such as " + c.first + " would need a ring of " + std::to_string(ring) +
                " ranks, and the kernel returns no lse",
            "Choose strategy::ulysses for this role, or a kernel that returns its lse"});
  };
  auto derived = [&] {
    require_heads(c, ranks);
    degrees const d = derive(c.shapes, ranks, {.lse = can_ring, .uneven_heads = o.uneven_heads});
    return sequence_degrees{d.ulysses, d.ring};
  };
  if (ranks == 1) return {};
  sequence_degrees d{ranks, 1};
  if (o.strategy == strategy::ring) d = {1, ranks};
  if (o.strategy == strategy::automatic) d = meshed ? *meshed : derived();
  if (o.strategy == strategy::usp) {
    int const u = o.ulysses > 0 ? o.ulysses : meshed ? meshed->ulysses : derived().ulysses;
    if (ranks % u != 0)
      fail({errc::invalid_shape,
            "Ulysses groups of " + std::to_string(u) + " ranks for " + c.role + " do not divide " + std::to_string(ranks) +
                " ranks",
            "Give role_options::ulysses a divisor of the ranks of the sequence"});
    d = {u, ranks / u};
  }
  refuse_ring(d.ring);
  return d;
}

} // namespace detail
} // namespace sp
