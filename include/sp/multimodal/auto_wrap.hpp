// One call that finds the slots of a model and puts the right attention object into each, over the ranks of one sequence.
// All is checked before anything is changed: a model that is refused is as it was. Every rank calls it alike, as groups are made.
#pragma once

#include <sp/multimodal/fusion_slot.hpp>
#include <sp/multimodal/inspect.hpp>
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

template <class Role, class Kernels>
auto const& kernel_for(Kernels const& k) {
  if constexpr (requires {
                  k.vision;
                  k.text;
                }) {
    if constexpr (std::is_same_v<Role, vision_role>)
      return k.vision;
    else
      return k.text;
  } else {
    return k;
  }
}

template <class K, class T>
concept computes = attention_backend<K, T> || block_kernel<K, T> || whole_kernel<K, T>;

template <class Slot, class Comm>
constexpr bool require_memory() {
  constexpr bool one_memory = std::is_same_v<typename Slot::memory_type, typename Comm::memory_type>;
  static_assert(one_memory,
                "sp::auto_wrap: a slot of this model holds tensors of one memory and the communicator moves those of another; "
                "give the slot a queue of that memory: sp::attention_slot<role, T, queue>.");
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

/// Reads a model before it is wrapped.
struct census {
  role_census roles[role_count]{};
  bool can_ring[role_count] = {true, true, true};
};

/// Counts slots of each role.
template <class Kernels>
struct census_walk : census {
  inspection seen{};

  template <class Slot>
  void slot(walk_state& at, Slot& s) {
    seen.slot(at, s);
    if constexpr (!std::is_const_v<Slot>)
      if constexpr (Slot::kind == slot_kind::attention) {
        using role = typename Slot::role;
        constexpr int i = role_index<role>;
        roles[i].add(role::name, seen.report.parts.back().path, s.seat().heads());
        can_ring[i] = detail::can_ring<std::remove_cvref_t<decltype(kernel_for<role>(std::declval<Kernels const&>()))>>;
      }
  }
  void module(walk_state& at, char const* role, bool projects) { seen.module(at, role, projects); }
  template <class X>
  void again(walk_state& at, X& x, std::string const& before) {
    seen.again(at, x, before);
  }
  void passed(walk_state& at, char const* why) { seen.passed(at, why); }
};

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
        s.use(any->whole);
    }
  }
  template <class Slot>
  void attention(Slot& s) {
    using role = typename Slot::role;
    auto const& kernel = kernel_for<role>(kernels);
    using kernel_type = std::remove_cvref_t<decltype(kernel)>;
    constexpr int i = role_index<role>;
    if constexpr (require_interface<Slot, Comm, kernel_type>())
      role_objects<Comm, kernel_type, Contract>(*of_role[i], degrees[i], kernel, options_of(options, i), options.checks).fill(s);
  }
  void module(walk_state&, char const*, bool) {}
  template <class X>
  void again(walk_state&, X&, std::string const&) {}
  void passed(walk_state&, char const*) {}
};

/// bad_state where there is nothing to fill, or where what was found cannot work.
inline void require_slots(model_report const& r) {
  auto const listed = [&] {
    std::string s;
    std::size_t n = 0;
    for (found_part const& p : r.parts)
      if (!p.taken && n++ < 3) s += (s.empty() ? " (" : "; ") + p.path + ": " + p.why_not;
    return s + (n > 3 ? "; and " + std::to_string(n - 3) + " more" : "") + (n > 0 ? ")" : "");
  };
  index_t slots = 0, fusions = 0;
  found_part const* projection = nullptr;
  for (found_part const& p : r.parts) {
    if (!p.taken) continue;
    if (p.what == part_names::projection)
      projection = projection ? projection : &p;
    else
      ++slots;
    fusions += p.what == part_names::fusion;
  }
  if (slots == 0)
    fail({errc::bad_state, "nothing to wrap was found in this model" + listed(),
          "Call its attention through an sp::attention_slot<role, T>, and name the modules on the way to it in members(model)"});
  if (projection && fusions == 0)
    fail(
        {errc::bad_state,
         "projection " + projection->path + " needs a splice: this model has no sp::fusion_slot, which says where visual rows go",
         "Give the model an sp::fusion_slot with one of sp::splice and name it in members(model); or, if it calls sp::fusion "
         "itself, take the role from the projection"});
}

/// Where the degrees of a mesh come from, and in which order its axes are.
struct mesh_degrees {
  sequence_degrees degrees;
  bool ulysses_first = false;
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
  census_walk<Kernels> found;
  walk_state reading;
  walk(model, reading, found);
  require_slots(found.seen.report);
  filling<Comm, Kernels, Contract> fill{kernels, options};
  for (int i = 0; i < role_count; ++i)
    if (found.roles[i].slots > 0)
      fill.degrees[i] = chosen_degrees(found.roles[i], ranks.size(), options_of(options, i), found.can_ring[i],
                                       mesh ? &mesh->degrees : nullptr);
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

/// Finds the slots of a model (sp::inspect says which) and puts an attention object over `ranks` into each. `ranks`: a communicator
/// or group of the ranks that share a sequence; the model's batches are cut over them, with any sharding. `kernels`: a kernel
/// that rings or Ulysses take, or role_kernels. Degrees follow from the heads that slots say (sp::derive), for each role by itself.
/// Returns the model. Collective: every rank calls it with an equal model and equal options, before the first step or between steps.
///
///     sp::auto_wrap(model, ranks, sp::cpu{});
///     sp::auto_wrap(model, ranks, sp::cpu{}, {.vision = {.strategy = sp::strategy::ring}, .checks = 2}, sp::same{});
///
/// contract: of the gradients of prefix tokens, as for vit_attention. bad_state where nothing is found or a slot does not say its
/// heads; what derive() says where heads and ranks do not fit.
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
