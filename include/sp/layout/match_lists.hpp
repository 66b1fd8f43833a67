// The matching rows of an exchange, peer by peer, and how they become the pieces that are sent and received.
// Made once per step; tensors are only known when the pieces are listed.
#pragma once

#include <sp/collective/parcels.hpp>
#include <sp/layout/row_match.hpp>

namespace sp::detail {

/// Matching rows with every peer, for one direction of an exchange.
struct match_lists {
  std::vector<std::vector<row_match>> per_peer;
  index_t total = 0; ///< matches over all peers: pieces of one tensor in an exchange

  template <class F>
  static match_lists of(int peers, F&& enumerate) {
    match_lists l;
    for (int p = 0; p < peers; ++p) {
      l.per_peer.emplace_back();
      enumerate(p, [&](row_match const& m) { l.per_peer.back().push_back(m); });
      l.total += index_t(l.per_peer.back().size());
    }
    return l;
  }
};

enum class side { from, to };

/// Adds the rows of v that a peer's matches name, seen from one side of the match.
template <class T, int R, class M>
void add_rows(parcel_builder& b, view<T, R, M> const& v, std::span<row_match const> matches, side s) {
  for (row_match const& m : matches)
    b.add(s == side::from ? v.rows(m.from_row, m.count, m.from_step) : v.rows(m.to_row, m.count, m.to_step));
}

} // namespace sp::detail
