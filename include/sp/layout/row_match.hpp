// Which rows of one layout are which rows of another, along a map of positions: what every movement of rows enumerates.
// Pure integers and no communication; both ends of an exchange enumerate in the same order.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <sp/geometry/concepts.hpp>
#include <sp/geometry/documents.hpp>
#include <sp/geometry/run.hpp>

namespace sp {

/// Positions [from, from + count) of one stream become positions [to, to + count) of another (or the same).
struct mapping {
  index_t from = 0, to = 0, count = 0;
};

/// Rows from_row + i from_step on one side are rows to_row + i to_step on the other.
struct row_match {
  index_t from_row = 0, from_step = 1, to_row = 0, to_step = 1, count = 0;
};

/// Calls f(row_match) for everything `from` and `to` share under the map. Both ends of an exchange enumerate in this order.
template <class F>
constexpr void for_each_match(std::span<run const> from, std::span<run const> to, std::span<mapping const> map, F&& f) {
  for (mapping const& m : map) {
    index_t from_row = 0;
    for (run const& a : from) {
      interval i = clip(a, m.from, m.from + m.count);
      if (i.count) {
        run image = a.sub(i.first, i.count);
        image.begin += m.to - m.from;
        index_t to_row = 0;
        for (run const& b : to) {
          if (image.begin < b.end() && b.begin < image.end())
            if (run_overlap c = intersect(image, b); c.count)
              f(row_match{from_row + i.first + c.a, c.a_step, to_row + c.b, c.b_step, c.count});
          to_row += b.count;
        }
      }
      from_row += a.count;
    }
  }
}

/// The map that moves nothing.
[[nodiscard]] constexpr mapping identity_map(index_t length) noexcept { return {0, 0, length}; }

/// Each position of `to` takes what stands `by` >= 0 behind it in the same document of `from`; documents pair up by index.
template <class List = std::vector<mapping>>
[[nodiscard]] List shift_map(documents const& from, documents const& to, index_t by) {
  static_assert(detail::require_list<List, mapping>());
  if (by < 0)
    fail({errc::invalid_shape, "a shift by " + std::to_string(by) + " tokens",
          "Shift by 0 or more: labels stand behind their tokens"});
  if (from.size() != to.size())
    fail({errc::bad_documents, std::to_string(from.size()) + " documents are mapped to " + std::to_string(to.size()),
          "Both streams hold the same documents; empty ones are allowed"});
  List out;
  for (std::size_t d = 0; d < from.size(); ++d)
    if (from[d].count > by) out.push_back({from[d].begin + by, to[d].begin, from[d].count - by});
  return out;
}

/// Each position takes what stands `by` behind it in the same document (by = 1: next-token labels).
template <class List = std::vector<mapping>>
[[nodiscard]] List shift_map(documents const& docs, index_t by) {
  return shift_map<List>(docs, docs, by);
}

/// The same documents' tokens in two streams, for instance unpadded and padded.
template <class List = std::vector<mapping>>
[[nodiscard]] List document_map(documents const& from, documents const& to) {
  return shift_map<List>(from, to, 0);
}

} // namespace sp
