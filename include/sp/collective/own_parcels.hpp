// What a rank sends to itself in an exchange: found in the lists, compared and copied, the same way for every communicator.
// Nothing is copied unless both sides hold the same bytes; what a difference leads to is the communicator's affair.
#pragma once

#include <string>
#include <utility>

#include <sp/collective/concepts.hpp>

namespace sp::detail {

/// "rank 0 sends 8 bytes, rank 1 expects 12".
inline std::string counts_text(int from, index_t sent, int to, index_t expected) {
  return "rank " + std::to_string(from) + " sends " + std::to_string(sent) + " bytes, rank " + std::to_string(to) + " expects " +
         std::to_string(expected);
}

/// The parcel that a rank sends to itself, and the one it receives; empty where there is none.
inline std::pair<std::span<piece const>, std::span<piece const>> own_parcels(int rank, traffic const& t) {
  std::pair<std::span<piece const>, std::span<piece const>> own;
  for (parcel const& p : t.sends)
    if (p.peer == rank) own.first = p.pieces;
  for (parcel const& p : t.receives)
    if (p.peer == rank) own.second = p.pieces;
  return own;
}

/// The same where the two sides must not differ: then it calls refuse(problem, remedy), which must throw.
template <class Refuse>
std::pair<std::span<piece const>, std::span<piece const>> own_parcels_of_equal_bytes(int rank, traffic const& t,
                                                                                     Refuse&& refuse) {
  auto const own = own_parcels(rank, t);
  if (own.first.empty() && own.second.empty()) return own;
  if (index_t const sent = total_bytes(own.first), expected = total_bytes(own.second); sent != expected)
    refuse(counts_text(rank, sent, rank, expected), "Both parcels to oneself must hold the same bytes");
  return own;
}

/// Copies what `rank` sends to itself.
template <class Refuse>
void copy_own(int rank, traffic const& t, Refuse&& refuse) {
  auto const [out, in] = own_parcels_of_equal_bytes(rank, t, refuse);
  copy(in, out);
}

} // namespace sp::detail
