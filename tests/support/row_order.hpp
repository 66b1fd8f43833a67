// The same owners with other orders of rows: the runs of every part cut at random and shuffled, as a caller may list them.
// The seed alone decides, so that all ranks of a group make the same layout.
#pragma once

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include <sp/batch.hpp>

namespace support {

inline sp::layout shuffled(sp::layout const& l, std::uint64_t seed) {
  std::mt19937_64 g(seed);
  std::vector<std::vector<sp::run>> parts;
  for (int p = 0; p < l.parts(); ++p) {
    std::vector<sp::run> pieces;
    for (sp::run r : l.runs(p))
      while (r.count > 0) {
        auto const n = sp::index_t(1 + g() % std::uint64_t(r.count));
        pieces.push_back(r.sub(0, n));
        r = r.sub(n, r.count - n);
      }
    std::shuffle(pieces.begin(), pieces.end(), g);
    parts.push_back(std::move(pieces));
  }
  return {l.docs(), parts};
}

/// `b` with its rows in another order.
inline sp::batch shuffled(sp::batch const& b, std::uint64_t seed) { return {b.source(), shuffled(b.layout(), seed), b.part()}; }

} // namespace support
