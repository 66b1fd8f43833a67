// The documents of a recipe and how they are cut, for objects that are not attention; as differential.hpp reads these fields.
// Documents have names that are not their numbers.
#pragma once

#include <sp/geometry/documents.hpp>

#include "recipe.hpp"
#include "support/sharding.hpp"

namespace fuzz {

inline sp::documents stream_of(std::vector<number> const& list, number room) {
  std::vector<sp::document> docs;
  number at = 0;
  for (number n : list) {
    if (n >= 0) docs.push_back({at, n, n + room, 1000 - 7 * number(docs.size())});
    at += n < 0 ? -n : n + room;
  }
  return {docs, at};
}

inline support::any_sharding sharding_of(recipe const& r, number shard, bool stream, bool nested) {
  support::any_sharding way{int(shard), stream ? sp::scope::stream : sp::scope::document};
  if (nested) way.inner = r.degree, way.stride = r.strided ? r.ranks / r.degree : 1;
  return way;
}

} // namespace fuzz
