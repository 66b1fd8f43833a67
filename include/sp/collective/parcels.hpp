// Builds the parcels of one exchange in scratch memory, so that a steady state allocates nothing.
// Capacities are stated up front; pieces are kept until the builder dies, which must be after the exchange's wait().
#pragma once

#include <sp/collective/concepts.hpp>
#include <sp/core/memory.hpp>

namespace sp {

/// Collects the pieces of one exchange peer by peer, in memory of an allocator.
class parcel_builder {
public:
  parcel_builder(allocator& scratch, index_t peers, index_t pieces) : parcels_(scratch, {peers}), pieces_(scratch, {pieces}) {}

  void clear() noexcept { parcels_used_ = pieces_used_ = 0; }
  /// Following pieces go to (or come from) `peer`.
  void open(int peer) { parcels_.tensor(parcels_used_++) = {peer, {pieces_.tensor.data + pieces_used_, 0}}; }
  void add(piece const& p) {
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
  owned<parcel, 1> parcels_;
  owned<piece, 1> pieces_;
  index_t parcels_used_ = 0, pieces_used_ = 0;
};

} // namespace sp
