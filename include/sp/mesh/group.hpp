// A group: a communicator that knows where its ranks stand in the sequence. It forwards every ability of what it wraps.
// A handle as cheap to copy as the communicator; it is itself a communicator, so objects take either.
#pragma once

#include <utility>

#include <sp/collective/decorators/forwarding.hpp>

namespace sp {

/// A communicator along one or several axes of a mesh. It is no Comm, for as one it would not know its stride: where a type is written
/// out, as of a member, write group<threads> for threads. What split() makes are plain communicators: groups within a group need not
/// follow an axis.
template <class Comm>
class group : public detail::forwarding<group<Comm>, Comm> {
  static_assert(communicator<Comm>, "sp::group wraps a communicator: memory_type, rank(), size() and exchange(traffic)");

public:
  /// `stride` is the distance of neighbours of this group in ranks of the sequence group (ring x ulysses). For a Ulysses inside
  /// another one it counts the groups of the outer one: 1 where these follow each other, as for what split() makes.
  explicit constexpr group(Comm comm, index_t stride = 1)
      : detail::forwarding<group<Comm>, Comm>(std::move(comm)), stride_(stride) {
    if (stride <= 0)
      fail({errc::invalid_shape, "a group with stride " + std::to_string(stride), "Neighbours are at least one rank apart"});
  }

  constexpr index_t stride() const noexcept { return stride_; }

private:
  index_t stride_;
};

/// A communicator that knows its distance between neighbours.
template <class C>
concept has_stride = requires(C const& c) {
  { c.stride() } -> std::convertible_to<index_t>;
};

/// The distance between neighbours of c in ranks of the sequence group; 1 for a communicator that does not say.
template <class C>
[[nodiscard]] constexpr index_t group_stride(C const& c) {
  if constexpr (has_stride<C>)
    return c.stride();
  else
    return 1;
}

} // namespace sp
