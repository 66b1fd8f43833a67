// What the library's documents and its dropout mean to the oracle, which knows only rows and functions.
// The formula of dropout is written out again here: a counter of (document, head, query, key), four keys at a time.
#pragma once

#include <sp/core/philox.hpp>
#include <sp/geometry/mask.hpp>

#include "support/oracle.hpp"

namespace support {

/// Every token of a document gets its id and its offset there. With align::end the last query stands on the last key.
inline void place_tokens(oracle& o, sp::documents const& q_docs, sp::documents const& k_docs, sp::align at = sp::align::equal) {
  for (std::size_t d = 0; d < q_docs.size(); ++d) {
    sp::document const &q = q_docs[d], &k = k_docs[d];
    sp::index_t const first = at == sp::align::end ? k.count - q.count : 0;
    for (sp::index_t i = 0; i < q.count; ++i) o.q_places[std::size_t(q.begin + i)] = {q.id, first + i};
    for (sp::index_t i = 0; i < k.count; ++i) o.k_places[std::size_t(k.begin + i)] = {k.id, i};
  }
}

/// The factor on a probability that dropout of this chance keeps or drops.
inline auto dropout_of(sp::random_key key, double chance) {
  return [key, chance](sp::index_t document, sp::index_t head, sp::index_t q, sp::index_t k) {
    auto const u = sp::uniforms4(sp::site_key(key, document, head), q, k / 4);
    return u[std::size_t(k % 4)] < float(chance) ? 0.0 : 1 / (1 - chance);
  };
}

} // namespace support
