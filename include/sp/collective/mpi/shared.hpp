// The communicator `sp::mpi_shared`: sp::mpi among processes of one node, which can also read and write each other's memory.
// Pieces are published where they lie if they came from memory(), and are copied into shared memory otherwise.
#pragma once

#include <sp/collective/mpi/mpi.hpp>
#include <sp/collective/mpi/node.hpp>

namespace sp {

/// A const handle that is cheap to copy; made collectively from an sp::mpi whose ranks are all on one node (bad_state otherwise).
/// It is a group of its own, in the same family: exchanges, errors and deadlines are those of sp::mpi.
///
/// publish() makes pieces visible through shared memory. A piece whose memory is from memory() is published where it lies: peers may
/// write into it where the callers agree. Any other piece is copied by publish(), so peers read what it held then, and what they
/// write never reaches its owner.
///
/// Shared memory is made of anonymous files (memfd_create) that peers open through /proc: ranks run on one machine, as one user, in
/// one container; bad_state on all ranks otherwise. No file has a name, so nothing is left when a process is killed. It grows when a
/// rank needs more; a steady state makes none. What a growth leaves unused goes back to the machine, so does what 1,000 releases in a
/// row have not needed, and all of it with the last handle.
/// Limits: at most 4 publications are open at a time (bad_state). A publication that is destroyed unreleased ends the family; its shared
/// memory stays as long as a handle.
class mpi_shared {
public:
  using memory_type = host_memory;
  static constexpr bool row_lists = true;
  using token = mpi::token;
  class publication;

  /// Collective over the ranks of `ranks`.
  explicit mpi_shared(mpi const& ranks)
      : inner_(ranks.split(0, ranks.rank())), node_(std::make_shared<detail::mpi_node>(inner_.group_)) {}

  int rank() const noexcept { return inner_.rank(); }
  int size() const noexcept { return inner_.size(); }
  int world_rank() const noexcept { return inner_.world_rank(); }
  int world_size() const noexcept { return inner_.world_size(); }
  flight_recorder const& flight() const { return inner_.flight(); }
  [[nodiscard]] token exchange(traffic const& t) const { return inner_.exchange(t); }
  void barrier() const { inner_.barrier(); }
  [[nodiscard]] mpi_shared split(int color, int key) const { return mpi_shared(inner_.split(color, key)); }
  void abort(error_info const& why) const { inner_.abort(why); }

  /// Returns when every rank has published; of(r) of the result are rank r's pieces.
  [[nodiscard]] publication publish(char const* primitive, std::span<piece const> mine) const;
  /// Shared memory of this rank for pieces that are to be published where they lie; valid as long as a handle.
  allocator& memory() const { return node_->memory(); }

private:
  mpi inner_;
  std::shared_ptr<detail::mpi_node> node_;
};

/// Everybody's published pieces. Destroyed unreleased it ends the family.
class mpi_shared::publication {
public:
  publication(publication&& o) noexcept : node_(std::exchange(o.node_, nullptr)), number_(o.number_) {}
  publication& operator=(publication&& o) noexcept {
    publication(std::move(o)).swap(*this);
    return *this;
  }
  ~publication() {
    if (node_) node_->drop(number_);
  }
  /// Valid until release(); `r` is a rank of the group.
  [[nodiscard]] std::span<piece const> of(int r) const { return node_->published(r, number_); }
  /// Returns when every rank has released.
  void release() {
    if (!node_) fail({errc::bad_state, "this publication has been released already", "Release once for each publish"});
    std::exchange(node_, nullptr)->release(number_);
  }

private:
  friend mpi_shared;
  publication(std::shared_ptr<detail::mpi_node> node, std::uint64_t number) : node_(std::move(node)), number_(number) {}
  void swap(publication& o) noexcept {
    std::swap(node_, o.node_);
    std::swap(number_, o.number_);
  }

  std::shared_ptr<detail::mpi_node> node_; ///< null once released
  std::uint64_t number_;
};

inline mpi_shared::publication mpi_shared::publish(char const* primitive, std::span<piece const> mine) const {
  return {node_, node_->publish(primitive, mine)};
}

static_assert(communicator<mpi_shared> && has_barrier<mpi_shared> && splittable<mpi_shared> && peer_memory<mpi_shared> &&
              abortable<mpi_shared>);

} // namespace sp
