// A group of processes: splits, and the operations that mpi_shared makes of barriers. Waits have the family's deadline.
// Groups made by a split are lists of ranks and a number of their own; nothing of MPI is made for them.
#pragma once

#include <limits>

#include <sp/collective/mpi/barriers.hpp>

namespace sp::detail {

class mpi_group final : public mpi_barriers {
public:
  mpi_group(std::shared_ptr<mpi_family> family, std::vector<int> world_ranks, int rank, int context)
      : mpi_barriers(std::move(family), std::move(world_ranks), rank, context) {
    family_->add(*this);
  }
  ~mpi_group() { family_->remove(*this); }

  /// The group of all ranks of `from`; returns when everybody has come, with the same numbers.
  [[nodiscard]] static std::shared_ptr<mpi_group> world_of(MPI_Comm from, mpi_options const& options) {
    check_deadline(options.deadline);
    check_spin(options.spin);
    constexpr index_t most = std::numeric_limits<int>::max() - index_t(sizeof(mpi_control));
    if (options.eager_limit < 0 || options.largest_message < 1 || max(options.eager_limit, options.largest_message) > most)
      sp::fail({errc::bad_state,
                "messages of " + std::to_string(options.largest_message) + " and eager parcels of " +
                    std::to_string(options.eager_limit) + " bytes were asked for",
                "MPI counts up to " + std::to_string(most)});
    if (mpi_is_running()) mpi_family::free_terminated();
    std::shared_ptr<mpi_family> family(new mpi_family(from, options), &mpi_family::retire);
    std::vector<int> world_ranks;
    for (int r = 0; r < family->ranks(); ++r) world_ranks.push_back(r);
    int const rank = family->world();
    auto group = std::make_shared<mpi_group>(std::move(family), std::move(world_ranks), rank, 0);
    group->compare_options();
    return group;
  }

  void barrier(char const* primitive) {
    operation(operation_kind::barrier, primitive, 0, [&] { barrier_of({operation_id::barrier, primitive}); });
  }

  /// Everybody's color and key become groups; the result is this rank's.
  [[nodiscard]] std::shared_ptr<mpi_group> split(int color, int key) {
    std::shared_ptr<mpi_group> mine;
    operation(operation_kind::split, "split", 0, [&] { mine = split_into(color, key); });
    return mine;
  }

  /// Runs `body`, which has one barrier or several, as one operation of the flight record. An error of MPI in it ends the
  /// family; so does an exception that is none of ours, for the others wait or have gone on.
  template <class Body>
  void operation(operation_kind kind, char const* primitive, index_t bytes, Body&& body) {
    entry guard(*this, primitive);
    closing flight{*this, primitive, barrier_flight_ = recorder().begin(flight_, kind, primitive), int(barriers_)};
    recorder().posted(barrier_flight_, bytes, 0);
#if defined(__cpp_exceptions)
    try {
      body();
    } catch (error const& e) {
      bool const found_here = e.code() == errc::backend_error && !family_->failed();
      if (found_here) fail_between(e.code(), e.info().peer, e.info().problem, e.info().remedy, primitive, flight.step);
      flight.end = closing::by_error; // only now: there may be no memory for the words above
      if (found_here) throw_cause(primitive, flight.step);
      throw;
    }
#else
    body();
#endif
    flight.end = closing::done;
  }
  /// For an operation that cannot go on because a peer has left it: it has failed then, and its words, or those of whom it heard,
  /// are on their way. They may take long where processes wait for cores.
  void throw_failure_on_its_way(char const* primitive) {
    auto const end = std::chrono::steady_clock::now() + family_->options().deadline;
    while (!family_->failed() && std::chrono::steady_clock::now() < end)
      if (!family_->make_progress()) std::this_thread::yield();
    if (family_->failed()) throw_cause(primitive, int(barriers_) - 1);
  }
  void drop_publication(char const* primitive) noexcept {
    family_->exclusively(
        [&] { family_->fail_in_destructor("buffers dropped", [&] { return dropped_publication(rank_, primitive); }); });
  }

  void receive(int from, mpi_control const& n, std::byte const* data, std::size_t bytes) override {
    int const peer = rank_of(from);
    if (peer < 0) return;
    if (n.kind == mpi_control::progress_reply) return receive_progress(peer, n);
    if (n.kind == mpi_control::cancelled) return receive_cancellation(peer, n);
    if (n.kind == mpi_control::announcement) return receive_announcement(peer, n, data, bytes);
    receive_barrier(peer, n, data, bytes);
  }

private:
  struct closing {
    mpi_group& group;
    char const* primitive;
    flight_recorder::ticket ticket;
    int step; ///< the number of its first barrier
    enum { done, by_error, interrupted } end = interrupted;
    ~closing() {
      end == done ? group.recorder().done(ticket) : group.recorder().failed(ticket);
      auto why = [&] { return group.interrupted_operation(group.rank_, primitive, step); };
      if (end == interrupted) group.family_->fail_in_destructor("exception", why);
    }
  };

  std::shared_ptr<mpi_group> split_into(int color, int key) {
    auto const everybodys = all_gather({operation_id::split, "split"}, {color, key, family_->next_context()});
    auto value_of = [&](int r, std::size_t what) { return everybodys[std::size_t(r)][what]; };
    std::vector<std::int64_t> colors;
    int first = 0;
    for (int r = 0; r < size(); ++r) {
      colors.push_back(value_of(r, 0));
      first = std::max(first, int(value_of(r, 2))); // beyond every group that any of us is in
    }
    std::sort(colors.begin(), colors.end());
    colors.erase(std::unique(colors.begin(), colors.end()), colors.end());
    int const context = first + int(std::lower_bound(colors.begin(), colors.end(), color) - colors.begin());
    family_->take_contexts(first + int(colors.size()));
    std::vector<int> const order = ranks_of_color(
        size(), [&](int r) { return value_of(r, 0); }, [&](int r) { return value_of(r, 1); }, std::int64_t(color));
    std::vector<int> world_ranks;
    for (int r : order) world_ranks.push_back(world(r));
    int const rank = int(std::find(order.begin(), order.end(), rank_) - order.begin());
    return std::make_shared<mpi_group>(family_, std::move(world_ranks), rank, context);
  }

  void compare_options() {
    mpi_options const& o = family_->options();
    entry guard(*this, "sp::mpi");
    flight_recorder::record_calls_of_thread(family_->recorder());
    auto const everybodys =
        all_gather({operation_id::join, "sp::mpi"}, {o.eager_limit, o.largest_message, o.owns_large_parcels()});
    for (values const& theirs : everybodys)
      if (theirs[2]) family_->own_large_parcels();
    for (int r = 0; r < size() && !family_->failed(); ++r)
      if (auto const& [eager, largest, _] = everybodys[std::size_t(r)]; eager != o.eager_limit || largest != o.largest_message)
        fail_between(errc::rank_mismatch, r,
                     "rank " + std::to_string(r) + " has eager_limit and largest_message " + std::to_string(eager) + " and " +
                         std::to_string(largest) + ", rank " + std::to_string(rank_) + " has " + std::to_string(o.eager_limit) +
                         " and " + std::to_string(o.largest_message),
                     "Give the same numbers on every rank", "sp::mpi", -1);
    if (family_->failed()) throw_cause("sp::mpi", -1);
  }
};

} // namespace sp::detail
