// The communicator `sp::mpi`: ranks are processes of an MPI job, and every message is a plain MPI message with a deadline.
// A failure of one rank ends the waits of all within milliseconds, in this communicator and in all groups split from its root.
#pragma once

#include <utility>

#include <sp/collective/mpi/group.hpp>

namespace sp {

/// A rank of a group of processes, on host memory. A const handle that is cheap to copy.
///
/// Borrows the caller's communicator: construction is collective and makes one private duplicate, which the last handle frees; the
/// caller initialises and finalises MPI. All handles and groups made from one construction (the family) are used by one thread of a
/// process at a time; MPI_THREAD_FUNNELED is enough when that is the main thread.
///
/// Progress: MPI moves bytes while somebody is inside it. A wait on a token returns as soon as each peer with bytes in that exchange
/// has entered the same exchange and is, now and then, inside an operation of any sp::mpi of its thread. The order of waits does not
/// matter. Parcels up to eager_limit travel with their header; larger ones as mpi_options::large_parcels says. Ranks run on machines
/// with the same representation of numbers.
/// Limits: a token is waited for before the 8th exchange after it (bad_state).
///
/// Errors. short_message: counts differ (both sides); rank_mismatch: operations differ (both sides); timeout: a peer did not come
/// before the deadline; peer_failed: it has let go of its last handle or returned from run(); aborted: another rank failed first,
/// `info().peer` is its rank in the root; backend_error: MPI's own; bad_state: misuse by this rank, nothing was sent. Each of these
/// but bad_state ends the family: all ranks refuse every later operation with `aborted`. A process that is killed takes the job
/// with it, as mpirun decides; one that is stopped is a timeout.
///
/// The memory of an operation that has failed is the caller's again. With large parcels that are owned, the default, that is so at
/// once. Where they are direct the error waits until what is under way has moved or was taken back, which takes the peers, up to the
/// deadline: when a peer has not been inside an operation until then, MPI still holds that memory, and the error says so; freeing it
/// may crash this process later inside MPI, and for a token that is dropped the next error or that of run() says so. An operation has
/// one deadline for all it waits for, and its error comes at most a tenth of it and 50 ms later.
class mpi {
public:
  using memory_type = host_memory;
  static constexpr bool row_lists = true;
  class token;

  /// Collective over `comm`; returns when every rank has come. Refuses other numbers in other ranks' options (rank_mismatch). After a
  /// timeout here do not construct from `comm` again: its duplication is still under way, and the next one would pair with it.
  explicit mpi(MPI_Comm comm, mpi_options options = {}) : group_(detail::mpi_group::world_of(comm, options)) {}

  /// Runs `body(mpi const&)` on this rank. An exception that leaves it ends the family in this rank's name and goes on; a rank that
  /// returns while others wait for it is `peer_failed` for them. If the body returns normally from a family that has failed, run()
  /// throws what no operation of this rank has thrown: a token that was dropped, or another rank's failure.
  template <class Body>
  static void run(MPI_Comm comm, Body&& body, mpi_options options = {});

  int rank() const noexcept { return group_->rank(); }
  int size() const noexcept { return group_->size(); }
  /// The rank and number of ranks of the root, whatever group this is.
  int world_rank() const noexcept { return group_->family().world(); }
  int world_size() const noexcept { return group_->family().ranks(); }
  /// The last operations of this rank, over all its groups.
  flight_recorder const& flight() const { return *group_->family().recorder(); }

  /// Pieces and parcels stay alive until wait(); `t.primitive` stays alive as long as the communicator: use a literal.
  [[nodiscard]] token exchange(traffic const& t) const;
  void barrier() const { group_->barrier("barrier"); }
  /// Every rank of this group calls split and gets one group; any int is a color. Order within a color: by key, then by rank.
  [[nodiscard]] mpi split(int color, int key) const { return mpi(group_->split(color, key)); }
  /// Ends the family; may be called from any thread. Operations of all ranks, this one too, fail with `aborted` from now on. Below
  /// MPI_THREAD_MULTIPLE a call from another than MPI's main thread takes effect at this rank's next poll.
  void abort(error_info const& why) const { group_->abort(why); }

private:
  friend class mpi_shared;
  explicit mpi(std::shared_ptr<detail::mpi_group> group) : group_(std::move(group)) {}

  std::shared_ptr<detail::mpi_group> group_;
};

/// An exchange under way. Destroyed unwaited it ends the family, and takes its memory back before the destructor returns.
class mpi::token {
public:
  token(token&& o) noexcept : group_(std::exchange(o.group_, nullptr)), number_(o.number_) {}
  token& operator=(token&& o) noexcept {
    token(std::move(o)).swap(*this);
    return *this;
  }
  ~token() {
    if (group_) group_->drop(number_);
  }
  void wait() {
    if (!group_) fail({errc::bad_state, "this token has been waited for already", "Wait once for each exchange"});
    group_->wait(number_);
    group_.reset();
  }

private:
  friend mpi;
  token(std::shared_ptr<detail::mpi_group> group, std::uint64_t number) : group_(std::move(group)), number_(number) {}
  void swap(token& o) noexcept {
    std::swap(group_, o.group_);
    std::swap(number_, o.number_);
  }

  std::shared_ptr<detail::mpi_group> group_; ///< null once waited for
  std::uint64_t number_;
};

inline mpi::token mpi::exchange(traffic const& t) const { return {group_, group_->exchange(t)}; }

template <class Body>
void mpi::run(MPI_Comm comm, Body&& body, mpi_options options) {
  mpi const self(comm, options);
  detail::mpi_family& family = self.group_->family();
  auto report = [&](detail::failure f) {
    f.thrown = nullptr; // it goes on from here: the family, which may outlive this call, does not keep it
    family.exclusively([&] { family.fail(std::move(f)); });
  };
  if (std::exception_ptr const thrown = detail::run_in_name_of(
          family.world(), [&] { body(self); }, report))
    std::rethrow_exception(thrown);
  family.exclusively([&] { // another thread may abort the family meanwhile
    self.group_->throw_unreported();
    family.set_returned();
  });
}

static_assert(communicator<mpi> && has_row_lists<mpi> && has_barrier<mpi> && splittable<mpi> && abortable<mpi> &&
              !peer_memory<mpi>);
static_assert(!has_all_to_all_v<mpi> && !has_all_gather_v<mpi> &&
              !has_broadcast<mpi>); // the fallbacks give the bits of sp::threads

} // namespace sp
