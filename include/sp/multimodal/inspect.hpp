// What a model holds that sp can take: slots by role, with their heads and what sits in them, and why something was not taken.
// Looks only: nothing is changed, and nothing is sent.
#pragma once

#include <sp/multimodal/attention_slot.hpp>
#include <sp/multimodal/members.hpp>

namespace sp {

/// Something that was met in a model.
struct found_part {
  std::string path{}; ///< "vision.layers[3].attend"
  std::string role{}; ///< "vision", "text", "projection", that of a role of your own; empty if it has none
  std::string what{}; ///< "attention slot", "projection", "part", ...
  bool taken = false; ///< it is a slot that auto_wrap fills, or a projection it knows of
  std::string why_not{};
  index_t q_heads = 0, kv_heads = 0, prefix = 0; ///< of an attention slot; 0 heads: the model does not say
  std::string holds{};                           ///< what sits in a slot: "one rank", "ulysses_attention, ulysses 4"
};

namespace detail {
/// What found_part::what may be.
namespace part_names {
inline constexpr char const *attention = "attention slot", *fusion = "fusion slot", *deepstack = "deepstack slot",
                            *linear = "linear attention slot", *conv1d = "convolution slot", *projection = "projection",
                            *other = "part";
/// By kind.
inline constexpr char const* of_slots[] = {attention, fusion, deepstack, linear, conv1d};
} // namespace part_names
} // namespace detail

/// All of a model, in the order of its parts.
class model_report {
public:
  std::vector<found_part> parts;

  /// How many slots or projections of a role are taken.
  [[nodiscard]] index_t count(std::string_view role) const {
    index_t n = 0;
    for (found_part const& p : parts) n += p.taken && p.role == role;
    return n;
  }
  [[nodiscard]] index_t taken() const {
    index_t n = 0;
    for (found_part const& p : parts) n += p.taken;
    return n;
  }
  /// The first part with this path; null if there is none.
  [[nodiscard]] found_part const* at(std::string_view path) const {
    for (found_part const& p : parts)
      if (p.path == path) return &p;
    return nullptr;
  }
  /// For people: a line a part, and how many there are of each role.
  [[nodiscard]] std::string text() const {
    std::string s;
    std::vector<std::string_view> roles;
    for (found_part const& p : parts) {
      s += line(p) + "\n";
      bool known = !p.taken;
      for (std::string_view r : roles) known = known || r == p.role;
      if (!known) roles.push_back(p.role);
    }
    std::string counts;
    for (std::string_view r : roles) counts += (counts.empty() ? "" : ", ") + std::to_string(count(r)) + " of " + std::string(r);
    return s + (counts.empty() ? "nothing was taken" : "taken: " + counts) + "\n";
  }

private:
  static std::string line(found_part const& p) {
    std::string s = p.path + ": " + (p.role.empty() || p.role == p.what ? "" : p.role + " ") + p.what;
    if (p.q_heads > 0) s += ", " + std::to_string(p.q_heads) + " q heads and " + std::to_string(p.kv_heads) + " kv heads";
    if (p.prefix > 0) s += ", " + std::to_string(p.prefix) + " prefix token" + (p.prefix == 1 ? "" : "s") + " a document";
    if (!p.holds.empty()) s += ", holds " + p.holds;
    if (!p.taken) s += "; not taken: " + p.why_not;
    return s;
  }
};

namespace detail {

inline std::string text_of(seating const& s) {
  std::string t = s.object;
  if (s.ring > 1) t += ", ring " + std::to_string(s.ring);
  if (s.ulysses > 1) t += ", ulysses " + std::to_string(s.ulysses);
  if (s.ranks > 1 && s.ring * s.ulysses == 1) t += " over " + std::to_string(s.ranks) + " ranks";
  return t;
}

/// Writes a report.
struct inspection {
  model_report report;

  template <class Slot>
  void slot(walk_state& at, Slot& s) {
    found_part p = described(s);
    p.path = name_of(at);
    p.taken = !std::is_const_v<Slot>;
    if (!p.taken) p.why_not = "it is const";
    report.parts.push_back(std::move(p));
  }
  void module(walk_state& at, char const* role, bool projects) {
    if (!projects) return; // its slots are what counts
    bool const outermost = at.projection.empty();
    report.parts.push_back({name_of(at), role, part_names::projection, outermost,
                            outermost ? "" : "it is inside of " + at.projection + ", which is taken as a whole"});
  }
  template <class X>
  void again(walk_state& at, X& x, std::string const& before) {
    found_part p;
    using plain = std::remove_cv_t<X>;
    p.what = part_names::other;
    if constexpr (is_slot<plain>)
      p = described(x);
    else if constexpr (has_role<plain>)
      p.role = role<plain>::type::name;
    p.path = name_of(at);
    p.why_not = "it is the same object as " + before;
    report.parts.push_back(std::move(p));
  }
  void passed(walk_state& at, char const* why) { report.parts.push_back({name_of(at), "", part_names::other, false, why}); }

private:
  static std::string name_of(walk_state const& at) { return at.path.empty() ? "model" : at.path; }
  template <class Slot>
  static found_part described(Slot& s) {
    static_assert(
        requires { s.seated().object; } &&
            (std::remove_cv_t<Slot>::kind != slot_kind::attention || requires { s.seat().heads(); }),
        "sp: a slot of this model has another interface than sp::attention_slot: it lacks seat() or seated(). Put an "
        "sp::attention_slot there, or give its type no member `kind`.");
    found_part p;
    p.role = std::remove_cv_t<Slot>::role::name;
    p.what = part_names::of_slots[int(std::remove_cv_t<Slot>::kind)];
    if constexpr (std::remove_cv_t<Slot>::kind == slot_kind::attention) {
      p.q_heads = s.seat().heads().q_heads;
      p.kv_heads = s.seat().heads().kv_heads;
      p.prefix = s.seat().prefix;
    }
    p.holds = text_of(s.seated());
    return p;
  }
};

template <class X>
constexpr void require_model() {
  constexpr bool as_const = may_hold<X>(), not_const = may_hold<std::remove_const_t<X>>();
  static_assert(as_const || !not_const, "sp: this model is const, and its members() takes no const one: pass the model itself.");
  static_assert(
      not_const,
      "sp: this model names no parts, so nothing can be found in it: write `auto members(model& m) { return "
      "sp::parts(\"layers\", "
      "m.layers); }` beside its type, specialise sp::role for it, or include sp/auto_wrap_pfr.hpp if it is a plain aggregate.");
}

} // namespace detail

/// What was found in a model, by role, and why something was not taken.
template <class Model>
[[nodiscard]] model_report inspect(Model& model) {
  detail::require_model<Model>();
  detail::inspection found;
  if constexpr (detail::may_hold<Model>()) {
    detail::walk_state at;
    detail::walk(model, at, found);
  }
  return std::move(found.report);
}

} // namespace sp
