// Parts of plain aggregates without a function members(): their fields, as Boost.PFR counts them. Included on purpose, and nowhere by sp.
// In all sources of a program that walk the same models, or in none: what is found in a type must not depend on the source.
#pragma once

#include <boost/pfr.hpp>

#include <sp/auto_wrap.hpp>

namespace sp::detail {

/// What PFR can read: a struct without base classes, references and arrays in C's style, which is built from a list in braces.
template <class X>
concept plain_aggregate = std::is_class_v<X> && std::is_aggregate_v<X> && std::is_move_constructible_v<X>;

template <class X, class... Outer, std::size_t... I>
constexpr bool any_field_may_hold(std::index_sequence<I...>) {
  return (may_hold<boost::pfr::tuple_element_t<I, X>, Outer...>() || ...);
}
// found by the walk through the type of its last argument
template <class X, class... Outer>
  requires plain_aggregate<X>
auto aggregate_may_hold(std::type_identity<X>, asked<Outer...>, aggregate_fields) {
  constexpr auto fields = std::make_index_sequence<boost::pfr::tuple_size_v<X>>{};
  return std::bool_constant<any_field_may_hold<X, Outer...>(fields)>{};
}
/// f(name, field) for each field; names are numbers, as C++20 knows no others.
template <class X, class F>
  requires plain_aggregate<std::remove_cv_t<X>>
void walk_aggregate(X& x, aggregate_fields, F const& f) {
  boost::pfr::for_each_field(x, [&](auto& field, std::size_t i) { f("field " + std::to_string(i), field); });
}

} // namespace sp::detail
