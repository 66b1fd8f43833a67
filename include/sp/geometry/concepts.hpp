// What functions that make a list of runs, slices, blocks or mappings ask of its type.
// They are templates of it so that only who calls them pays for compiling them; std::vector<T> is what they make by themselves.
#pragma once

#include <cstddef>

namespace sp {

/// A list of T that grows: empty at first, push_back(), size(), [], and a loop over its entries, which may be changed in place.
/// std::vector<T> is one, with any allocator; std::array and std::span do not grow.
template <class List, class T>
concept list_of = requires(List list, T const& entry, std::size_t i) {
  List();
  list.push_back(entry);
  list.size();
  static_cast<T&>(list[i]);
  list.begin();
  list.end();
};

namespace detail {
/// The sentence for a type that is none. In the body of a function, where it costs who calls it: a constraint is checked for calls
/// that only stand in headers, too.
template <class List, class T>
constexpr bool require_list() {
  static_assert(list_of<List, T>,
                "sp: a list of these entries grows: it needs push_back(entry), size(), [] and a loop over T&; a "
                "std::vector of them is one, with any allocator, an array or a span is none.");
  return true;
}
} // namespace detail

} // namespace sp
