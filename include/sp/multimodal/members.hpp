// The parts of a model: a tie of references with names, which a function members(model) beside the model returns, and the walk through them.
// Vectors, arrays, optionals, pointers and nested parts are walked; each object is visited once, however often it is reached.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <sp/multimodal/roles.hpp>
#include <sp/multimodal/slot_saved.hpp>

namespace sp {

/// The last of a list of parts.
struct no_parts {};
/// A part, by reference, and those behind it.
template <class X, class Rest = no_parts>
struct part_list {
  std::string_view name;
  X& object;
  Rest rest{};
};

/// Names the parts of a model, or of a module in it:
///
///     struct tower { std::vector<layer> layers; };
///     struct model { tower vision; std::unique_ptr<decoder> text; };
///     auto members(tower& t) { return sp::parts("layers", t.layers); }
///     auto members(model& m) { return sp::parts("vision", m.vision, "text", m.text); }
///
/// Names are literals. Parts that hold no slots (weights, norms) may be left out.
constexpr no_parts parts() { return {}; }
template <class X, class... More>
constexpr auto parts(std::string_view name, X& object, More&&... more) {
  static_assert(sizeof...(More) % 2 == 0,
                "sp::parts takes names and parts in turns: sp::parts(\"layers\", m.layers, \"head\", m.head).");
  return part_list<X, decltype(parts(std::forward<More>(more)...))>{name, object, parts(std::forward<More>(more)...)};
}

namespace detail {

template <class>
inline constexpr bool is_part_list = false;
template <>
inline constexpr bool is_part_list<no_parts> = true;
template <class X, class Rest>
inline constexpr bool is_part_list<part_list<X, Rest>> = true;

/// Found beside the type of x.
template <class X>
concept names_parts = requires(X& x) {
  members(x);
};
/// Types that are being asked whether a slot can be in them.
template <class... X>
struct asked {};
/// With it the walk asks for fields of plain aggregates, which sp/auto_wrap_pfr.hpp knows.
struct aggregate_fields {};
template <class X, class... Outer>
constexpr bool field_may_hold() {
  if constexpr (requires { aggregate_may_hold(std::type_identity<X>{}, asked<Outer...>{}, aggregate_fields{}); })
    return decltype(aggregate_may_hold(std::type_identity<X>{}, asked<Outer...>{}, aggregate_fields{}))::value;
  return false;
}

template <class X>
concept points = (std::is_class_v<X> || std::is_pointer_v<X>)&&requires(X& x) {
  static_cast<bool>(x);
  *x;
};
template <class X>
concept ranges = requires(X& x) {
  x.begin();
  x.end();
};

/// Whether a slot can be in an X, by its type. Outer: types around it that are being asked.
template <class X, class... Outer>
constexpr bool may_hold() {
  using plain = std::remove_cv_t<X>;
  if constexpr (is_slot<plain> || has_role<plain> || names_parts<X>)
    return true;
  else if constexpr ((std::is_same_v<plain, Outer> || ...))
    return false; // a path is a range of paths, a node points to nodes
  else if constexpr (std::is_array_v<X>)
    return may_hold<std::remove_extent_t<X>, Outer..., plain>();
  else if constexpr (ranges<X>)
    return may_hold<std::remove_reference_t<decltype(*std::declval<X&>().begin())>, Outer..., plain>();
  else if constexpr (points<X>)
    return may_hold<std::remove_reference_t<decltype(*std::declval<X&>())>, Outer..., plain>();
  else
    return field_may_hold<plain, Outer..., plain>();
}

template <class X>
inline constexpr bool holds_unwalked = false;
template <template <class...> class Box, class... X>
inline constexpr bool holds_unwalked<Box<X...>> = ((may_hold<X>() || holds_unwalked<std::remove_cv_t<X>>) || ...);

/// Why no slot can be taken from an X, of which may_hold() is false.
template <class X>
constexpr char const* why_nothing() {
  using plain = std::remove_cv_t<X>;
  bool is_const = may_hold<plain>();
  if constexpr (points<X>) is_const = is_const || may_hold<std::remove_cvref_t<decltype(*std::declval<X&>())>>();
  return is_const                ? "it is const"
         : holds_unwalked<plain> ? "sp walks no maps, tuples and variants: name what is in it in members()"
                                 : "no slot can be in it: it has neither members() nor a role";
}

/// Where the walk is, and what it has met.
class walk_state {
public:
  std::string path;
  std::string projection; ///< the outermost one around, empty outside of them

  /// True the first time that an object is met; else `before` is how it was reached then.
  bool first(void const* at, void const* type, std::string& before) {
    for (met const& m : met_)
      if (m.at == at && m.type == type) {
        before = m.path;
        return false;
      }
    met_.push_back({at, type, path});
    return true;
  }

private:
  struct met {
    void const *at, *type;
    std::string path;
  };
  std::vector<met> met_;
};

/// Goes through X and tells `visit`:
///
///     visit.slot(state, slot)              a slot, met for the first time
///     visit.module(state, role, plain)     a foreign thing with a role; plain: nothing in it is named
///     visit.again(state, what, before)     a thing that was reached before, by the path `before`
///     visit.passed(state, why)             a named part in which there is nothing to take
template <class X, class Visit>
void walk(X& x, walk_state& at, Visit& visit);

template <class X, class Visit>
void walk_named(std::string_view name, X& x, walk_state& at, Visit& visit) {
  std::size_t const length = at.path.size();
  if (length > 0 && name.substr(0, 1) != "[") at.path += '.';
  at.path += name;
  walk(x, at, visit);
  at.path.resize(length);
}

template <class Visit>
void walk_parts(no_parts, walk_state&, Visit&) {}
template <class X, class Rest, class Visit>
void walk_parts(part_list<X, Rest> const& list, walk_state& at, Visit& visit) {
  walk_named(list.name, list.object, at, visit);
  walk_parts(list.rest, at, visit);
}
template <class Parts, class Visit>
void walk_all(Parts const& list, walk_state& at, Visit& visit) {
  static_assert(is_part_list<Parts>, "sp: members(model) returns what sp::parts(\"name\", part, ...) returned.");
  if constexpr (is_part_list<Parts>) walk_parts(list, at, visit);
}

template <class X, class Visit>
void walk_foreign(X& x, walk_state& at, Visit& visit) {
  using what = role<std::remove_cv_t<X>>;
  static_assert(
      requires { what::type::name; }, "sp: a specialisation of sp::role<T> says what T is: `using type = sp::vision_role`, "
                                      "sp::text_role or sp::projection_role.");
  constexpr bool has_slot = requires { what::slot(x); };
  constexpr bool has_members = requires { what::members(x); };
  constexpr bool projects = std::is_same_v<typename what::type, projection_role>;
  static_assert(has_slot || has_members || projects || names_parts<X>,
                "sp: a specialisation of sp::role<T> says how to reach the slots of T: `static auto& slot(T&)` or `static auto "
                "members(T&)`, which returns sp::parts(...); only a projection needs neither.");
  if constexpr (has_slot)
    static_assert(std::is_same_v<typename std::remove_cvref_t<decltype(what::slot(x))>::role, typename what::type>,
                  "sp: a specialisation of sp::role<T> gives T another role than the slot that it returns has.");
  std::string const around = at.projection;
  visit.module(at, what::type::name, projects);
  if (projects && around.empty()) at.projection = at.path;
  if constexpr (has_slot)
    walk(what::slot(x), at, visit);
  else if constexpr (has_members)
    walk_all(what::members(x), at, visit);
  else if constexpr (names_parts<X>)
    walk_all(members(x), at, visit);
  at.projection = around;
}

template <class X, class Visit>
void walk_elements(X& x, walk_state& at, Visit& visit) {
  std::size_t i = 0;
  for (auto& element : x) {
    std::string name(1, '['); // "[" + ... warns at -O2 of g++ 12 (GCC bug 105651)
    name += std::to_string(i++);
    name += ']';
    walk_named(name, element, at, visit);
  }
}

/// A thing that is visited once.
template <class X, class Visit>
void walk_object(X& x, walk_state& at, Visit& visit) {
  using plain = std::remove_cv_t<X>;
  std::string before;
  if (!at.first(&x, &type_tag<X>, before)) { // with its const: what was met as const may be taken by another way
    visit.again(at, x, before.empty() ? "the model" : before);
  } else if constexpr (is_slot<plain>)
    visit.slot(at, x);
  else if constexpr (has_role<plain>)
    walk_foreign(x, at, visit);
  else if constexpr (names_parts<X>)
    walk_all(members(x), at, visit);
  else
    walk_aggregate(x, aggregate_fields{}, [&](std::string_view name, auto& field) {
      if constexpr (may_hold<std::remove_reference_t<decltype(field)>>()) walk_named(name, field, at, visit);
    });
}

template <class X, class Visit>
void walk(X& x, walk_state& at, Visit& visit) {
  using plain = std::remove_cv_t<X>;
  if constexpr (!may_hold<X>())
    visit.passed(at, why_nothing<X>());
  else if constexpr (is_slot<plain> || has_role<plain> || names_parts<X>)
    walk_object(x, at, visit);
  else if constexpr (std::is_array_v<X> || ranges<X>)
    walk_elements(x, at, visit);
  else if constexpr (points<X>) {
    if (x)
      walk(*x, at, visit);
    else
      visit.passed(at, "it is null or empty");
  } else
    walk_object(x, at, visit);
}

} // namespace detail
} // namespace sp
