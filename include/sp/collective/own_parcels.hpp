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

/// Copies what `rank` sends to itself. Where the two sides differ it calls refuse(problem, remedy), which must throw.
template <class Refuse>
void copy_own(int rank, traffic const& t, Refuse&& refuse) {
  auto const [out, in] = own_parcels(rank, t);
  if (out.empty() && in.empty()) return;
  if (index_t const sent = total_bytes(out), expected = total_bytes(in); sent != expected)
    refuse(counts_text(rank, sent, rank, expected), "Both parcels to oneself must hold the same bytes");
  copy(in, out);
}

} // namespace sp::detail
