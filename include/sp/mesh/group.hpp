// A group: a communicator that knows where its ranks stand in the sequence. It forwards every ability of what it wraps.
// A handle as cheap to copy as the communicator; it is itself a communicator, so objects take either.
#pragma once

#include <span>
#include <utility>

#include <sp/collective/concepts.hpp>

namespace sp {

/// A communicator along one or several axes of a mesh.
template <class Comm>
class group {
  static_assert(communicator<Comm>, "sp::group wraps a communicator: memory_type, rank(), size() and exchange(traffic)");

public:
  using memory_type = typename Comm::memory_type;
  using communicator_type = Comm;

  /// `stride` is the distance of neighbours of this group in ranks of the sequence group (ring x ulysses).
  explicit constexpr group(Comm comm, index_t stride = 1) : comm_(std::move(comm)), stride_(stride) {
    if (stride <= 0)
      fail({errc::invalid_shape, "a group with stride " + std::to_string(stride), "Neighbours are at least one rank apart"});
  }

  constexpr int rank() const { return comm_.rank(); }
  constexpr int size() const { return comm_.size(); }
  constexpr index_t stride() const { return stride_; }
  /// The communicator inside, for what only its model offers.
  constexpr Comm const& base() const { return comm_; }

  [[nodiscard]] auto exchange(traffic const& t) const { return comm_.exchange(t); }

  [[nodiscard]] auto all_to_all_v(traffic const& t) const requires has_all_to_all_v<Comm> { return comm_.all_to_all_v(t); }
  [[nodiscard]] auto all_gather_v(traffic const& t) const requires has_all_gather_v<Comm> { return comm_.all_gather_v(t); }
  template <class T>
    requires has_all_reduce<Comm, T>
  decltype(auto) all_reduce(view<T, 1, memory_type> values) const { return comm_.all_reduce(values); }
  template <class T>
    requires has_reduce_scatter<Comm, T>
  decltype(auto) reduce_scatter(std::span<view<T, 1, memory_type> const> parts, view<T, 1, memory_type> mine) const {
    return comm_.reduce_scatter(parts, mine);
  }
  decltype(auto) broadcast(std::span<piece const> pieces, int root) const requires has_broadcast<Comm> {
    return comm_.broadcast(pieces, root);
  }
  decltype(auto) barrier() const requires has_barrier<Comm> { return comm_.barrier(); }
  /// Groups within this group; they are plain communicators, because they need not follow an axis.
  auto split(int color, int key) const requires splittable<Comm> { return comm_.split(color, key); }
  [[nodiscard]] auto publish(char const* primitive, std::span<piece const> mine) const requires peer_memory<Comm> {
    return comm_.publish(primitive, mine);
  }
  decltype(auto) abort(error_info const& why) const requires abortable<Comm> { return comm_.abort(why); }

private:
  Comm comm_;
  index_t stride_;
};

/// A communicator that knows its distance between neighbours.
template <class C>
concept has_stride = requires(C const& c) {
  { c.stride() } -> std::convertible_to<index_t>;
};

/// The distance between neighbours of c in ranks of the sequence group; 1 for a communicator that does not say.
template <class C>
constexpr index_t group_stride(C const& c) {
  if constexpr (has_stride<C>)
    return c.stride();
  else
    return 1;
}

} // namespace sp
