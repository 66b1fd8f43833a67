// Documents out of fuzz input, small enough for brute force or with positions of any size, and what every list of documents satisfies.
// Used by all targets that need documents.
#pragma once

#include <sp/geometry/documents.hpp>

#include "input.hpp"

namespace fuzz_target {

inline void require_documents(sp::documents const& docs) {
  index_t end = 0, tokens = 0;
  for (sp::document const& d : docs) {
    require(d.begin >= end && d.count >= 0 && d.room >= d.count, "documents overlap, or a count is negative");
    end = d.begin + d.room; // the sanitizer sees an overflow
    tokens += d.count;
  }
  require(docs.length() >= end, "a document leaves the stream");
  require(docs.tokens() == tokens && tokens <= docs.length(), "tokens are miscounted");
}

/// Up to six documents of up to 15 tokens, with gaps.
inline sp::documents small_documents(input& in, index_t count) {
  std::vector<sp::document> list;
  index_t at = 0;
  for (index_t d = 0; d < count; ++d) {
    std::uint8_t const b = in.byte();
    index_t const gap = b >= 192 ? b % 3 : 0, n = b % 16;
    list.push_back({at + gap, n, n, 7 * d});
    at += gap + n;
  }
  return {list, at + in.below(3)};
}

/// Documents wherever the numbers say; may be refused.
inline sp::documents any_documents(input& in, index_t count) {
  std::vector<sp::document> list;
  for (index_t d = 0; d < count; ++d) {
    index_t const begin = in.number(), n = in.number(), room = in.below(4) ? n : in.number();
    list.push_back({begin, n, room, in.number()});
  }
  return {list, in.number()};
}

} // namespace fuzz_target
