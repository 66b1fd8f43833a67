// What auto_wrap learns of a model before it changes anything: the slots of each role, what it refuses, and what ranks compare.
// Below check level 2 nothing is sent; from there on a model or options that differ between ranks are an error on all of them.
#pragma once

#include <sp/collective/check/agreement.hpp>
#include <sp/layout/digests.hpp>
#include <sp/multimodal/inspect.hpp>
#include <sp/multimodal/prefix_tokens.hpp>
#include <sp/multimodal/wrap_options.hpp>

namespace sp::detail {

/// What was found in a model.
struct census {
  model_report report{};
  role_census roles[role_count]{};
  digest seats[role_count]{}; ///< names, heads, masks, scales and prefixes of the slots of a role
  index_t fusions = 0, deepstacks = 0, linears = 0, convolutions = 0;
};

/// Takes one.
struct census_walk : census {
  inspection seen{};

  template <class Slot>
  void slot(walk_state& at, Slot& s) {
    seen.slot(at, s);
    if constexpr (!std::is_const_v<Slot>) {
      if constexpr (Slot::kind == slot_kind::attention) {
        using role = typename Slot::role;
        std::string const& path = seen.report.parts.back().path;
        roles[role_index<role>].add(role::name, path, s.seat().heads());
        seats[role_index<role>].add(path.data(), path.size()).add(digest_of(s.seat().mask)).add(s.seat().scale);
        seats[role_index<role>].add(s.seat().q_heads).add(s.seat().kv_heads).add(s.seat().prefix);
      } else {
        ++(Slot::kind == slot_kind::fusion      ? fusions
           : Slot::kind == slot_kind::deepstack ? deepstacks
           : Slot::kind == slot_kind::linear    ? linears
                                                : convolutions);
      }
    }
  }
  void module(walk_state& at, char const* role, bool projects) { seen.module(at, role, projects); }
  template <class X>
  void again(walk_state& at, X& x, std::string const& before) {
    seen.again(at, x, before);
  }
  void passed(walk_state& at, char const* why) { seen.passed(at, why); }
};
template <class Model>
census census_of(Model& model) {
  census_walk found;
  walk_state at;
  walk(model, at, found);
  found.report = std::move(found.seen.report);
  return found;
}

/// bad_state where there is nothing to fill, or where what was found cannot work.
inline void require_slots(census const& found) {
  model_report const& r = found.report;
  auto const listed = [&] {
    std::string s;
    std::size_t n = 0;
    for (found_part const& p : r.parts)
      if (!p.taken && n++ < 3) s += (s.empty() ? " (" : "; ") + p.path + ": " + p.why_not;
    return s + (n > 3 ? "; and " + std::to_string(n - 3) + " more" : "") + (n > 0 ? ")" : "");
  };
  index_t slots = found.fusions + found.deepstacks + found.linears + found.convolutions;
  for (role_census const& of : found.roles) slots += of.slots;
  if (slots == 0)
    fail({errc::bad_state, "nothing to wrap was found in this model" + listed(),
          "Call its attention through an sp::attention_slot<role, T>, and name the modules on the way to it in members(model)"});
  if (found.fusions > 0) return;
  for (found_part const& p : r.parts)
    if (p.taken && p.what == part_names::projection)
      fail({errc::bad_state,
            "projection " + p.path + " needs a splice: this model has no sp::fusion_slot, which says where visual rows go",
            "Give the model an sp::fusion_slot with one of sp::splice and name it in members(model); or, if it calls sp::fusion "
            "itself, take the role from the projection"});
}

// By which words a difference between ranks is told, by role_index.
inline constexpr char const* slots_of[] = {"vision slots", "text slots", "slots of other roles"};
inline constexpr char const* seats_of[] = {"names, heads and masks of vision slots", "names, heads and masks of text slots",
                                           "names, heads and masks of slots of other roles"};
inline constexpr char const* strategies_of[] = {"strategy of vision slots", "strategy of text slots", "strategy of other slots"};
inline constexpr char const* further_options_of[] = {"options of vision slots", "options of text slots",
                                                     "options of other slots"};
inline constexpr char const* wrap_strategy_words[] = {"automatic", "ulysses", "ring", "usp"};
inline constexpr char const* orders_of_axes[] = {"ring first", "ulysses first"};

inline void describe(fingerprint& f, wrap_options const& o, mesh_degrees const* mesh, bool same_contract) {
  f.number("check level", o.checks).word("contract", same_contract, contract_words);
  mesh_degrees const axes = mesh ? *mesh : mesh_degrees{{0, 0}}; // 0: no mesh
  f.number("ulysses axis of the mesh", axes.degrees.ulysses).number("ring axis of the mesh", axes.degrees.ring);
  f.word("order of the mesh's axes", axes.ulysses_first, orders_of_axes);
  for (int i = 0; i < role_count; ++i) {
    role_options const& of = options_of(o, i);
    f.word(strategies_of[i], of.strategy, wrap_strategy_words);
    f.hash(further_options_of[i],
           given(digest().add(of.ulysses).add(of.uneven_heads).add(of.schedule).add(of.head_chunks).add(of.keep)));
  }
}
inline void describe(fingerprint& f, census const& found) {
  for (int i = 0; i < role_count; ++i) f.number(slots_of[i], found.roles[i].slots).hash(seats_of[i], given(found.seats[i]));
  f.number("fusion slots", found.fusions).number("deepstack slots", found.deepstacks);
  f.number("linear attention slots", found.linears).number("convolution slots", found.convolutions);
}

/// `local` looks at this rank's model and adds to the fingerprint; then all ranks go on or all throw. Over other memory than the host's
/// there is no queue yet to compare on: differences are found by the first call of a slot.
template <class Comm, class Local>
void wrap_together(Comm const& ranks, int checks, fingerprint& f, Local&& local) {
  check_level(checks, "auto_wrap", ranks.rank(), ranks.size());
  if constexpr (std::is_same_v<typename Comm::memory_type, host_memory>)
    if (checks > 1 && ranks.size() > 1) {
      pool memory;
      return check_together(inline_queue{}, f, local, [&](fingerprint const& mine) { sp::agree(ranks, mine, memory); });
    }
  local();
}

} // namespace sp::detail
