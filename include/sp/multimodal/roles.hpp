// Roles of attention in a model, and what a slot for one is told: mask, heads and prefix.
// A role is a type, so that vision and text slots do not mix; foreign types are given theirs by a specialisation of sp::role.
#pragma once

#include <sp/attention/call/options.hpp>
#include <sp/mesh/derive.hpp>
#include <sp/multimodal/seat.hpp>

namespace sp {

/// Attention of a vision tower: over patches, and over prefix tokens (cls, registers) where there are any. Full unless told otherwise.
struct vision_role {
  static constexpr char const* name = "vision";
  static constexpr bool prefixed = true; ///< its slots may have prefix tokens
  static sp::mask usual_mask() { return full(); }
};
/// Attention of a decoder: causal unless told otherwise.
struct text_role {
  static constexpr char const* name = "text";
  static sp::mask usual_mask() { return causal(); }
};
/// Attention's place in a model, as its slot is made with: what auto_wrap needs to know to put another object there. A role of your
/// own is a struct with `name`, `usual_mask()` and, where there are prefix tokens, `prefixed`.
template <class Role>
struct attention_seat {
  index_t q_heads = 0;  ///< of the whole model; 0: not said, and degrees cannot be derived
  index_t kv_heads = 0; ///< 0: as many as q heads
  sp::mask mask = Role::usual_mask();
  double scale = 0;   ///< softmax scale; 0 means 1 / sqrt(dim)
  index_t prefix = 0; ///< prefix tokens per document (vision): the tensors' first rows, as vit_attention has them

  /// The heads as they are given to sp::derive.
  [[nodiscard]] head_shape heads() const { return {q_heads, kv_heads == 0 ? q_heads : kv_heads}; }
};

/// To be specialised for a type of somebody else that stands in a model: what it is, and how to reach the slots in it.
///
///     template <> struct sp::role<their::tower> {
///       using type = sp::vision_role;                                                  // what reports call it
///       static auto members(their::tower& x) { return sp::parts("blocks", x.blocks); } // or: static auto& slot(their::tower&)
///     };
///
/// A projection needs no more than its type: the outermost one of a model is taken, those inside of it are parts of it.
template <class T>
struct role {
  static constexpr bool unspecified = true;
};

namespace detail {
template <class X>
concept has_role = !requires {
  requires role<X>::unspecified;
};
/// Whether slots of a role may have prefix tokens.
template <class Role>
inline constexpr bool has_prefix = requires {
  requires bool(Role::prefixed);
};
/// An object for a slot has the mask and the prefix tokens that the model says.
inline void require_seat(sp::mask const& wanted, index_t prefix, sp::mask const& mask, index_t its_prefix) {
  auto rows = [](sp::mask const& m) { return "[" + bound_text(m.lo) + ", " + bound_text(m.hi) + "]"; };
  if (mask != wanted)
    fail({errc::bad_state,
          "an object whose mask has bounds of k - q in " + rows(mask) + " was put into a slot whose mask has " + rows(wanted) +
              (rows(mask) == rows(wanted) ? ", and other prefixes, spans, slices or alignment" : ""),
          "Make the object with .mask = slot.seat().mask", "attention_slot"});
  if (prefix != its_prefix)
    fail({errc::bad_state,
          "an object of " + std::to_string(its_prefix) + " prefix tokens was put into a slot of " + std::to_string(prefix),
          "Put a vit_attention with .prefix = slot.seat().prefix into it", "attention_slot"});
}
template <class X>
concept is_slot = requires {
  typename X::role;
  X::kind;
};
} // namespace detail

} // namespace sp
