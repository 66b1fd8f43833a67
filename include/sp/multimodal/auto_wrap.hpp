// One call that finds the slots of a model and puts the right attention object into each, over the ranks of one sequence.
// All is checked before anything is changed: a model that is refused is as it was. Every rank calls it alike, as groups are made.
#pragma once

#include <sp/multimodal/wrap_checks.hpp>
#include <sp/multimodal/wrapped_objects.hpp>

namespace sp {

/// A kernel for vision towers, and one for everything else: sp::auto_wrap(model, ranks, sp::role_kernels{sp::cpu{}, mine{}}).
template <class Vision, class Text>
struct role_kernels {
  Vision vision;
  Text text;
};
template <class Vision, class Text>
role_kernels(Vision, Text) -> role_kernels<Vision, Text>;

namespace detail {

template <class Role, class Kernel>
Kernel const& kernel_for(Kernel const& k) {
  return k;
}
template <class Role, class Vision, class Text>
auto const& kernel_for(role_kernels<Vision, Text> const& k) {
  if constexpr (std::is_same_v<Role, vision_role>)
    return k.vision;
  else
    return k.text;
}
template <class Role, class Kernels>
using kernel_of = std::remove_cvref_t<decltype(kernel_for<Role>(std::declval<Kernels const&>()))>;

template <class K, class T>
concept computes = attention_backend<K, T> || block_kernel<K, T> || whole_kernel<K, T>;

template <class Slot, class Comm>
constexpr bool require_memory() {
  constexpr bool one_memory = std::is_same_v<typename Slot::memory_type, typename Comm::memory_type>;
  static_assert(one_memory,
                "sp::auto_wrap: a slot of this model holds tensors of one memory and the communicator moves those of another; "
                "give the slot a queue of that memory as its last template argument.");
  return one_memory;
}
template <class Slot, class Comm, class Kernel>
constexpr bool require_interface() {
  using T = typename Slot::element_type;
  if constexpr (require_memory<Slot, Comm>()) {
    constexpr bool of_memory = std::is_same_v<memory_of<Kernel>, typename Slot::memory_type>;
    static_assert(of_memory, "sp::auto_wrap: this kernel computes on tensors of another memory than the slots of this model.");
    static_assert(
        !of_memory || computes<Kernel, T>,
        "sp::auto_wrap: this kernel does not compute on the element type of a slot of this model; give it one that models "
        "attention_backend, block_kernel or whole_kernel for it, or another one by role: sp::role_kernels{vision, text}.");
    return of_memory && computes<Kernel, T>;
  } else {
    return false;
  }
}

/// Puts objects into slots.
template <class Comm, class Kernels, class Contract>
struct filling {
  using groups = sequence_groups<Comm>;
  Kernels const& kernels;
  wrap_options const& options;
  groups const* of_role[role_count] = {};
  groups const* any = nullptr; ///< for what needs all ranks of the sequence
  sequence_degrees degrees[role_count] = {};

  template <class Slot>
  void slot(walk_state&, Slot& s) {
    if constexpr (!std::is_const_v<Slot>) {
      if constexpr (Slot::kind == slot_kind::attention)
        attention(s);
      else if constexpr (require_memory<Slot, Comm>())
        s.use(any->whole, options.checks);
    }
  }
  template <class Slot>
  void attention(Slot& s) {
    using role = typename Slot::role;
    using kernel = kernel_of<role, Kernels>;
    constexpr int i = role_index<role>;
    if constexpr (require_interface<Slot, Comm, kernel>())
      role_objects<Comm, kernel, Contract>(*of_role[i], degrees[i], kernel_for<role>(kernels), options_of(options, i),
                                           options.checks)
          .fill(s);
  }
  void module(walk_state&, char const*, bool) {}
  template <class X>
  void again(walk_state&, X&, std::string const&) {}
  void passed(walk_state&, char const*) {}
};

/// The groups of each role: those of equal degrees are made once.
template <class Comm, class Fill>
std::vector<sequence_groups<Comm>> groups_for(census const& found, Comm const& ranks, Fill& fill, bool ulysses_first) {
  std::vector<sequence_groups<Comm>> groups;
  std::vector<sequence_degrees> made;
  groups.reserve(role_count); // they are pointed to
  auto of = [&](sequence_degrees d) {
    for (std::size_t g = 0; g < made.size(); ++g)
      if (made[g] == d) return &groups[g];
    made.push_back(d);
    return &groups.emplace_back(ranks, d, ulysses_first);
  };
  for (int i = 0; i < role_count; ++i)
    if (found.roles[i].slots > 0) fill.any = fill.of_role[i] = of(fill.degrees[i]);
  if (!fill.any) fill.any = of({1, ranks.size()});
  return groups;
}

template <class Model, class Comm, class Kernels, class Contract>
void wrap(Model& model, Comm const& ranks, Kernels const& kernels, wrap_options const& options, mesh_degrees const* mesh,
          Contract) {
  filling<Comm, Kernels, Contract> fill{kernels, options};
  bool const can_ring[role_count] = {detail::can_ring<kernel_of<vision_role, Kernels>>,
                                     detail::can_ring<kernel_of<text_role, Kernels>>, detail::can_ring<kernel_of<void, Kernels>>};
  census found;
  fingerprint f("auto_wrap", "", ranks.rank());
  describe(f, options, mesh, std::is_same_v<Contract, same>);
  wrap_together(ranks, options.checks, f, [&] {
    found = census_of(model);
    describe(f, found);
    require_slots(found);
    for (int i = 0; i < role_count; ++i)
      if (found.roles[i].slots > 0)
        fill.degrees[i] =
            chosen_degrees(found.roles[i], ranks.size(), options_of(options, i), can_ring[i], mesh ? &mesh->degrees : nullptr);
  });
  auto const groups = groups_for(found, ranks, fill, mesh && mesh->ulysses_first);
  walk_state filling_in;
  walk(model, filling_in, fill);
}

/// Whether the ulysses axis of a mesh comes before its ring axis.
inline bool ulysses_comes_first(mesh const& m) {
  for (axis::named const& a : m.list()) {
    if (a.kind == axis_kind::ring) return false;
    if (a.kind == axis_kind::ulysses) return true;
  }
  return false;
}

} // namespace detail

/// Finds the slots of a model (sp::inspect says which) and puts an object over `ranks` into each. `ranks`: a communicator
/// or group of the ranks that share a sequence; the model's batches are cut over them, with any sharding. `kernels`: a kernel
/// that rings or Ulysses take, or role_kernels. Degrees follow from the heads that attention slots say (sp::derive), for each role by itself; slots of fusion, linear
/// attention and convolutions keep their own kernels and take all ranks.
/// Returns the model. Collective: every rank calls it with an equal model and equal options, before the first step or between steps.
///
///     sp::auto_wrap(model, ranks, sp::cpu{});
///     sp::auto_wrap(model, ranks, sp::cpu{}, {.vision = {.strategy = sp::strategy::ring}, .checks = 2}, sp::same{});
///
/// What sits in the slots then holds copies of `ranks`, or groups split from them: the model may be copied and moved, and outlive the
/// handle that was passed here, not what that stands for (the threads, MPI itself). Wrapping again replaces what sits there.
///
/// contract: of the gradients of prefix tokens, as for vit_attention. bad_state where nothing is found or a slot does not say its
/// heads; what derive() says where heads and ranks do not fit. From check level 2 on ranks compare what they found and were told, and
/// throw rank_mismatch together (communicators of host memory).
template <class Model, communicator Comm, class Kernels, class Contract = shares>
Model& auto_wrap(Model& model, Comm const& ranks, Kernels const& kernels, wrap_options const& options = {},
                 Contract contract = {}) {
  detail::require_model<Model>();
  if constexpr (detail::may_hold<Model>())
    located({"auto_wrap", "", ranks.rank(), ranks.size()},
            [&] { detail::wrap(model, ranks, kernels, options, nullptr, contract); });
  return model;
}

/// The same over the ring and ulysses axes of a mesh, of which `world` has all ranks: strategy::automatic means its degrees.
template <class Model, splittable Comm, class Kernels, class Contract = shares>
Model& auto_wrap(Model& model, mesh const& m, Comm const& world, Kernels const& kernels, wrap_options const& options = {},
                 Contract contract = {}) {
  detail::require_model<Model>();
  if constexpr (detail::may_hold<Model>())
    located({"auto_wrap", "", world.rank(), world.size()}, [&] {
      detail::mesh_degrees const degrees{{m.extent(axis_kind::ulysses), m.extent(axis_kind::ring)},
                                         detail::ulysses_comes_first(m)};
      detail::wrap(model, m.sequence(world), kernels, options, &degrees, contract);
    });
  return model;
}

} // namespace sp
