// Builds the parcels of one exchange in scratch memory, so that a steady state allocates nothing.
// Capacities are stated up front; pieces are kept until the builder dies, which must be after the exchange's wait().
#pragma once

#include <sp/collective/concepts.hpp>
#include <sp/core/memory.hpp>

namespace sp {

/// Collects the pieces of one exchange peer by peer, in memory of an allocator: `peers` parcels and `pieces` pieces at most, of which
/// clear() makes room again. One more, or a piece before a peer, is bad_state.
class parcel_builder {
public:
  parcel_builder(allocator& scratch, index_t peers, index_t pieces) : parcels_(scratch, {peers}), pieces_(scratch, {pieces}) {}

  void clear() noexcept { parcels_used_ = pieces_used_ = 0; }
  /// Following pieces go to (or come from) `peer`.
  void open(int peer) {
    if (parcels_used_ == parcels_.tensor.extent(0)) refuse(std::to_string(parcels_used_) + " parcels");
    parcels_.tensor(parcels_used_++) = {peer, {pieces_.tensor.data + pieces_used_, 0}};
  }
  void add(piece const& p) {
    if (pieces_used_ == pieces_.tensor.extent(0)) refuse(std::to_string(pieces_used_) + " pieces");
    if (parcels_used_ == 0)
      fail({errc::bad_state, "a piece was added to a parcel_builder before a peer was opened", "Call open(peer) first"});
    pieces_.tensor(pieces_used_++) = p;
    parcel& last = parcels_.tensor(parcels_used_ - 1);
    last.pieces = {last.pieces.data(), last.pieces.size() + 1};
  }
  template <class T, int Rank, class M>
  void add(view<T, Rank, M> const& v) {
    add(as_piece(v));
  }
  [[nodiscard]] std::span<parcel const> parcels() const noexcept { return {parcels_.tensor.data, std::size_t(parcels_used_)}; }

private:
  [[noreturn]] static void refuse(std::string const& room) {
    fail({errc::bad_state, "a parcel_builder with room for " + room + " is full",
          "Make it with as many peers and pieces as one exchange has, and clear() it before the next"});
  }

  owned<parcel, 1> parcels_;
  owned<piece, 1> pieces_;
  index_t parcels_used_ = 0, pieces_used_ = 0;
};

} // namespace sp
