// A group of processes where ranks also meet: barriers, splits, and what mpi_shared adds. Waits have the family's deadline.
// Ranks that meet for different reasons are told so; groups made by a split are lists of ranks and a number of their own.
#pragma once

#include <limits>

#include <sp/collective/mpi/exchange.hpp>

namespace sp::detail {

class mpi_group final : public mpi_exchanges {
public:
  using values = std::array<std::int64_t, 3>;

  mpi_group(std::shared_ptr<mpi_family> family, std::vector<int> world_ranks, int rank, int context)
      : mpi_exchanges(std::move(family), std::move(world_ranks), rank, context), arrivals_(2 * std::size_t(size())),
        votes_(std::size_t(size())) {
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
    if (mpi_is_running()) mpi_family::free_finished(nullptr);
    std::shared_ptr<mpi_family> family(new mpi_family(from, options), &mpi_family::retire);
    std::vector<int> world_ranks;
    for (int r = 0; r < family->ranks(); ++r) world_ranks.push_back(r);
    int const rank = family->world();
    auto group = std::make_shared<mpi_group>(std::move(family), std::move(world_ranks), rank, 0);
    group->compare_options();
    return group;
  }

  void barrier(char const* primitive) {
    entry guard(*this, primitive);
    recorded(operation_kind::barrier, primitive, 0, [&] { meet({meeting::barrier, primitive}); });
  }

  /// Everybody's color and key become groups; the result is this rank's.
  [[nodiscard]] std::shared_ptr<mpi_group> split(int color, int key) {
    entry guard(*this, "split");
    recorded(operation_kind::split, "split", 0, [&] {
      gather({meeting::split, "split"}, {color, key, family_->next_context()});
    });
    auto value_of = [&](int r, std::size_t what) { return gathered_[std::size_t(r)].values[what]; };
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

  /// One operation made of several meetings; an error of MPI in it ends the family.
  template <class Body>
  void operation(operation_kind kind, char const* primitive, index_t bytes, Body&& body) {
    entry guard(*this, primitive);
#if defined(__cpp_exceptions)
    try {
      recorded(kind, primitive, bytes, body);
    } catch (error const& e) {
      if (e.code() == errc::backend_error) fail_between(e.code(), -1, e.info().problem, e.info().remedy, primitive, int(met_));
      throw;
    }
#else
    recorded(kind, primitive, bytes, body);
#endif
  }
  /// Returns when every rank has come for the same purpose: message k goes to the rank 2^k further on and is awaited from the
  /// rank 2^k before, so the last message that arrives speaks for everybody.
  void meet(meeting const& why) {
    begin(why);
    for (int step = 1; step < size() && !family_->failed(); step *= 2) {
      post((rank_ + step) % size());
      await((rank_ + size() - step) % size());
    }
    end(why);
  }
  /// Everybody's values, valid until the next meeting.
  [[nodiscard]] std::span<mpi_control const> gather_values(meeting const& why, values const& mine) {
    gather(why, mine);
    return gathered_;
  }
  /// The same before a blocking call of MPI, which all ranks must enter or none. A failure elsewhere reaches some of them
  /// earlier than others and must not part them: each tells everybody before it waits for anybody, so in the end all have
  /// heard of all, and go on, or nobody has. The next operation throws.
  std::span<mpi_control const> gather_before_blocking(meeting const& why, values const& mine) {
    gather(why, mine, true);
    return gathered_;
  }
  void drop_exposure(char const* primitive) noexcept {
    family_->exclusively([&] { family_->fail(dropped_exposure(rank_, primitive)); });
  }

  /// For destructors that have something collective to do: true on all ranks if all are here within a short while, else false on
  /// all. First everybody votes `ready`; who has that from all votes `agreed`, who has waited for it too long votes `declined`.
  [[nodiscard]] bool agree_to_close() noexcept {
    if (family_->failed() || family_->is_over() || family_->is_unwinding()) return false;
    send_vote(ready);
    bool const all = wait_for_votes([](int p) { return p >= ready; }, std::chrono::milliseconds(50)) && !family_->failed() &&
                     std::find(votes_.begin(), votes_.end(), int(declined)) == votes_.end();
    send_vote(all ? agreed : declined);
    return all && wait_for_votes([](int p) { return p >= agreed; }, last_messages) &&
           std::count(votes_.begin(), votes_.end(), int(agreed)) == size();
  }

  void receive(int from, mpi_control const& n, std::byte const* data, std::size_t bytes) override {
    int const peer = rank_of(from);
    if (peer < 0) return;
    if (n.kind == mpi_control::progress_reply) return receive_progress(peer, n);
    if (n.kind == mpi_control::close_vote) {
      votes_[std::size_t(peer)] = int(n.values[0]);
      return;
    }
    if (n.kind == mpi_control::withdrawn) return receive_withdrawal(peer, n);
    if (n.kind == mpi_control::announcement) return receive_announcement(peer, n, data, bytes);
    progress_[std::size_t(peer)].meetings = std::int64_t(n.number + 1);
    arrival(peer, n.number) = n;
    compare_order(peer, std::uint64_t(n.wants), n.number + 1, n.primitive);
    if (meeting_ && n.number + 1 == met_) compare(peer, n);
  }

private:
  /// Runs `body`, which meets the others, as one operation of the flight record.
  template <class Body>
  void recorded(operation_kind kind, char const* primitive, index_t bytes, Body&& body) {
    struct closing {
      flight_recorder& recorder;
      flight_recorder::ticket ticket;
      bool good = false;
      ~closing() { good ? recorder.done(ticket) : recorder.failed(ticket); }
    } flight{recorder(), operation_ = recorder().begin(flight_, kind, primitive)};
    recorder().posted(operation_, bytes, 0);
    body();
    flight.good = true;
  }

  /// Like meet(), and everybody's values are in gathered_ afterwards.
  void gather(meeting const& why, values const& mine, bool even_after_failure = false) {
    begin(why);
    std::copy(mine.begin(), mine.end(), mine_.values);
    gathered_.resize(std::size_t(size()));
    for (int r = 0; r < size(); ++r)
      if (r != rank_) post(r);
    for (int r = 0; r < size() && !family_->failed(); ++r)
      if (r != rank_) await(r);
    if (!even_after_failure || !all_are_here()) end(why);
    meeting_ = false;
    for (int r = 0; r < size(); ++r) gathered_[std::size_t(r)] = r == rank_ ? mine_ : arrival(r, met_ - 1);
  }

  void begin(meeting const& why) {
    forget_replies();
    why_ = why;
    meeting_ = true;
    mine_ = mpi_control{};
    mine_.kind = mpi_control::meeting;
    mine_.context = context();
    mine_.number = met_++;
    mine_.gives = why.number;
    mine_.purpose = why.kind;
    mine_.wants = std::int64_t(entered_);
    mine_.name(why.primitive);
    for (int r = 0; r < size() && !family_->failed(); ++r)
      if (mpi_control const& n = arrival(r, mine_.number); r != rank_ && has_come(r)) compare(r, n);
  }
  void end(meeting const& why) {
    meeting_ = false;
    if (family_->failed()) throw_cause(why.primitive, int(mine_.number));
  }
  void post(int peer) { family_->link().send(world(peer), mine_); }
  void await(int peer) {
    if (has_come(peer)) return;
    recorder().waiting(operation_, world(peer));
    auto gone = [&] {
      if (!has_come(peer) && family_->has_returned(world(peer))) fail_returned(peer, why_.primitive, int(mine_.number));
    };
    family_->wait([&] { return has_come(peer); }, gone, [&] { query_progress(); }, [&] { too_late(peer); });
  }
  /// Everybody is in this meeting, for the same purpose. After a failure messages may still be on their way.
  bool all_are_here() {
    for (auto const until = std::chrono::steady_clock::now() + last_messages; std::chrono::steady_clock::now() < until;) {
      bool all = true;
      for (int r = 0; r < size(); ++r) {
        if (r == rank_) continue;
        bool const come = has_come(r);
        if (come ? !agrees(arrival(r, mine_.number)) : family_->has_ended(world(r)) || !family_->failed()) return false;
        all = all && come;
      }
      if (all) return true;
      if (!family_->make_progress()) std::this_thread::yield();
    }
    return false;
  }
  /// Names the ranks that are not known to have come; the one waited for may be waiting itself.
  void too_late(int peer) {
    int first = -1;
    std::string missing;
    for (int r = 0; r < size(); ++r) {
      if (r == rank_ || progress_[std::size_t(r)].meetings > std::int64_t(mine_.number)) continue;
      missing += (missing.empty() ? "rank " : ", rank ") + std::to_string(r);
      if (first < 0) first = r;
    }
    if (first < 0) missing = "rank " + std::to_string(first = peer);
    fail_late(first, missing, why_.primitive, int(mine_.number));
  }

  bool has_come(int peer) {
    mpi_control const& n = arrival(peer, mine_.number);
    return n.kind == mpi_control::meeting && n.number == mine_.number;
  }
  bool agrees(mpi_control const& n) const {
    return n.purpose == mine_.purpose && n.gives == mine_.gives && n.same_primitive(mine_);
  }
  void compare(int peer, mpi_control const& n) {
    if (!agrees(n)) fail_operations(peer, purpose_text(mine_), purpose_text(n), why_.primitive, int(mine_.number));
  }
  static std::string purpose_text(mpi_control const& n) {
    return meeting::text(meeting::kind_type(n.purpose), {n.primitive, ::strnlen(n.primitive, mpi_control::text_size)}, n.gives);
  }
  void compare_options() {
    mpi_options const& o = family_->options();
    entry guard(*this, "sp::mpi");
    flight_recorder::record_calls_of_thread(family_->recorder());
    gather({meeting::join, "sp::mpi"}, {o.eager_limit, o.largest_message, 0});
    for (int r = 0; r < size() && !family_->failed(); ++r)
      if (mpi_control const& n = gathered_[std::size_t(r)]; n.values[0] != o.eager_limit || n.values[1] != o.largest_message)
        fail_between(errc::rank_mismatch, r,
                     "rank " + std::to_string(r) + " has eager_limit and largest_message " + std::to_string(n.values[0]) +
                         " and " + std::to_string(n.values[1]) + ", rank " + std::to_string(rank_) + " has " +
                         std::to_string(o.eager_limit) + " and " + std::to_string(o.largest_message),
                     "Give the same numbers on every rank", "sp::mpi", -1);
    if (family_->failed()) throw_cause("sp::mpi", -1);
  }

  /// A peer is at most one meeting ahead: it cannot finish the next one without us.
  mpi_control& arrival(int peer, std::uint64_t number) { return arrivals_[2 * std::size_t(peer) + number % 2]; }

  enum vote : int { ready = 1, agreed, declined };
  void send_vote(vote mine) noexcept {
    votes_[std::size_t(rank_)] = mine;
    mpi_control n;
    n.kind = mpi_control::close_vote;
    n.context = context();
    n.values[0] = mine;
    for (int r = 0; r < size(); ++r)
      if (r != rank_) family_->link().send(world(r), n);
  }
  template <class Said>
  bool wait_for_votes(Said&& said, std::chrono::milliseconds limit) noexcept {
    auto const end = std::chrono::steady_clock::now() + limit;
    while (!std::all_of(votes_.begin(), votes_.end(), said)) {
      if (std::chrono::steady_clock::now() > end) return false;
      if (!family_->make_progress()) std::this_thread::yield();
    }
    return true;
  }

  /// How long messages that were sent before a failure are waited for; only a process that is stopped takes longer.
  static constexpr auto last_messages = std::chrono::seconds(2);

  flight_recorder::ticket operation_ = 0; ///< of the operation that meets
  bool meeting_ = false;
  meeting why_{};
  mpi_control mine_{};
  std::vector<mpi_control> arrivals_, gathered_;
  std::vector<int> votes_; ///< the last word of each rank
};

} // namespace sp::detail
