// A group of processes where ranks also meet: barriers, splits, and what mpi_shared adds. Waits have the family's deadline.
// Ranks that meet for different reasons are told so; groups made by a split are lists of ranks and a number of their own.
#pragma once

#include <limits>

#include <sp/collective/mpi/exchange.hpp>

namespace sp::detail {

class mpi_group final : public mpi_exchanges {
public:
  /// Why a rank meets the others.
  struct purpose {
    enum operation : std::int32_t { hello, barrier, split, publish, ready, release } kind = barrier;
    char const* primitive = "";
    std::int64_t publication = 0;
  };
  using values = std::array<std::int64_t, 3>;

  mpi_group(std::shared_ptr<mpi_family> family, std::vector<int> members, int rank, int context)
      : mpi_exchanges(std::move(family), std::move(members), rank, context), arrivals_(2 * members_.size()),
        partings_(members_.size()) {
    family_->join(*this);
  }
  ~mpi_group() { family_->part(*this); }

  /// The group of all ranks of `from`; returns when everybody has come, with the same numbers.
  static std::shared_ptr<mpi_group> world_of(MPI_Comm from, mpi_options const& options) {
    constexpr std::chrono::milliseconds longest = std::chrono::hours(24 * 365);
    if (options.deadline <= options.deadline.zero() || options.deadline > longest)
      sp::fail({errc::bad_state, "a deadline of " + std::to_string(options.deadline.count()) + " ms was asked for",
                "Give more than 0 and at most " + std::to_string(longest.count()) + " ms, a year"});
    constexpr index_t most = std::numeric_limits<int>::max() - index_t(sizeof(mpi_note));
    if (options.largest_note < 0 || options.largest_message < 1 || max(options.largest_note, options.largest_message) > most)
      sp::fail({errc::bad_state,
                "messages of " + std::to_string(options.largest_message) + " and notes of " +
                    std::to_string(options.largest_note) + " bytes were asked for",
                "MPI counts up to " + std::to_string(most)});
    if (mpi_is_running()) mpi_family::bury(nullptr);
    std::shared_ptr<mpi_family> family(new mpi_family(from, options), &mpi_family::retire);
    std::vector<int> members;
    for (int r = 0; r < family->ranks(); ++r) members.push_back(r);
    int const rank = family->world();
    auto group = std::make_shared<mpi_group>(std::move(family), std::move(members), rank, 0);
    group->say_hello();
    return group;
  }

  void barrier(char const* primitive) {
    entry guard(*this, primitive);
    recorded(operation_kind::barrier, primitive, 0, [&] { meet({purpose::barrier, primitive}); });
  }

  /// Everybody's color and key become groups; the result is this rank's.
  std::shared_ptr<mpi_group> split(int color, int key) {
    entry guard(*this, "split");
    recorded(operation_kind::split, "split", 0, [&] {
      gather({purpose::split, "split"}, {color, key, family_->next_context()});
    });
    struct place {
      std::int64_t color, key;
      int rank;
    };
    std::vector<place> all;
    std::vector<std::int64_t> colors;
    int first = 0;
    for (int r = 0; r < size(); ++r) {
      all.push_back({gathered_[std::size_t(r)].values[0], gathered_[std::size_t(r)].values[1], r});
      colors.push_back(all.back().color);
      first = std::max(first, int(gathered_[std::size_t(r)].values[2])); // beyond every group that any of us is in
    }
    std::sort(colors.begin(), colors.end());
    colors.erase(std::unique(colors.begin(), colors.end()), colors.end());
    int const context = first + int(std::lower_bound(colors.begin(), colors.end(), color) - colors.begin());
    family_->take_contexts(first + int(colors.size()));
    std::erase_if(all, [&](place const& p) { return p.color != color; });
    std::stable_sort(all.begin(), all.end(), [](place const& a, place const& b) { return a.key < b.key; });
    std::vector<int> members;
    int rank = 0;
    for (place const& p : all) {
      if (p.rank == rank_) rank = int(members.size());
      members.push_back(world(p.rank));
    }
    return std::make_shared<mpi_group>(family_, std::move(members), rank, context);
  }

  /// One operation made of several meetings; an error of MPI in it ends the family.
  template <class Body>
  void operation(operation_kind kind, char const* primitive, index_t bytes, Body&& body) {
    entry guard(*this, primitive);
#if defined(__cpp_exceptions)
    try {
      recorded(kind, primitive, bytes, body);
    } catch (error const& e) {
      if (e.code() == errc::backend_error) fail_pair(e.code(), -1, e.info().problem, e.info().remedy, primitive, int(met_));
      throw;
    }
#else
    recorded(kind, primitive, bytes, body);
#endif
  }
  void come_together(purpose const& why) { meet(why); }
  /// Everybody's values, valid until the next meeting.
  std::span<mpi_note const> gather_values(purpose const& why, values const& mine) {
    gather(why, mine);
    return gathered_;
  }
  /// The same before a blocking call of MPI, which all ranks must enter or none. A failure elsewhere reaches some of them
  /// earlier than others and must not part them: each tells everybody before it waits for anybody, so in the end all have
  /// heard of all, and go on, or nobody has. The next operation throws.
  std::span<mpi_note const> gather_surely(purpose const& why, values const& mine) {
    gather(why, mine, true);
    return gathered_;
  }
  void drop_exposure(char const* primitive) noexcept {
    family_->undisturbed([&] { drop_failure(primitive, -1, "an exposure was destroyed without release()"); });
  }
  std::vector<int> const& members() const { return members_; }
  using mpi_crew::refuse;

  /// For destructors that have something collective to do: true on all ranks if all are here within a short while, else false on
  /// all. First everybody says "here"; who has heard that of all says "go", who has waited for it too long says "stay".
  bool part_together() noexcept {
    if (family_->failed() || family_->left() || family_->is_unwinding()) return false;
    say_parting(here);
    bool const all = all_parting([](int p) { return p >= here; }, std::chrono::milliseconds(50)) && !family_->failed() &&
                     std::find(partings_.begin(), partings_.end(), int(stay)) == partings_.end();
    say_parting(all ? go : stay);
    return all && all_parting([](int p) { return p >= go; }, last_notes) &&
           std::count(partings_.begin(), partings_.end(), int(go)) == size();
  }

  void hear(int from, mpi_note const& n, std::byte const* data, std::size_t bytes) override {
    int const peer = rank_of(from);
    if (peer < 0) return;
    if (n.kind == mpi_note::answer) return hear_answer(peer, n);
    if (n.kind == mpi_note::parting) {
      partings_[std::size_t(peer)] = int(n.values[0]);
      return;
    }
    if (n.kind == mpi_note::call) return hear_call(peer, n, data, bytes);
    seen_[std::size_t(peer)].meetings = std::int64_t(n.number + 1);
    arrival(peer, n.number) = n;
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
    } flight{recorder(), flight_ = recorder().begin(place_, kind, primitive)};
    recorder().posted(flight_, bytes, 0);
    body();
    flight.good = true;
  }

  /// Returns when every rank has come for the same purpose: note k goes to the rank 2^k further on and is awaited from the rank 2^k
  /// before, so the last note that arrives has heard of everybody.
  void meet(purpose const& why) {
    begin(why);
    for (int step = 1; step < size() && !family_->failed(); step *= 2) {
      post((rank_ + step) % size());
      await((rank_ + size() - step) % size());
    }
    end(why);
  }
  /// The same, and everybody's values are in gathered_ afterwards.
  void gather(purpose const& why, values const& mine, bool surely = false) {
    begin(why);
    std::copy(mine.begin(), mine.end(), mine_.values);
    gathered_.resize(members_.size());
    for (int r = 0; r < size(); ++r)
      if (r != rank_) post(r);
    for (int r = 0; r < size() && !family_->failed(); ++r)
      if (r != rank_) await(r);
    if (!surely || !all_are_here()) end(why);
    meeting_ = false;
    for (int r = 0; r < size(); ++r) gathered_[std::size_t(r)] = r == rank_ ? mine_ : arrival(r, met_ - 1);
  }

  void begin(purpose const& why) {
    forget_answers();
    why_ = why;
    meeting_ = true;
    mine_ = mpi_note{};
    mine_.kind = mpi_note::meeting;
    mine_.context = context();
    mine_.number = met_++;
    mine_.gives = why.publication;
    mine_.purpose = why.kind;
    mine_.name(why.primitive);
    for (int r = 0; r < size() && !family_->failed(); ++r)
      if (mpi_note const& n = arrival(r, mine_.number); r != rank_ && has_come(r)) compare(r, n);
  }
  void end(purpose const& why) {
    meeting_ = false;
    if (family_->failed()) raise(why.primitive, int(mine_.number));
  }
  void post(int peer) {
    family_->link().send(world(peer), mine_, 0, [](std::byte*) {});
  }
  void await(int peer) {
    if (has_come(peer)) return;
    recorder().waiting(flight_, world(peer));
    auto gone = [&] {
      if (!has_come(peer) && family_->has_left(world(peer))) returned_early(peer, why_.primitive, int(mine_.number));
    };
    family_->wait([&] { return has_come(peer); }, gone, [&] { ask(); }, [&] { too_late(peer); });
  }
  /// Everybody is in this meeting, for the same purpose. After a failure notes may still be on their way.
  bool all_are_here() {
    for (auto const until = std::chrono::steady_clock::now() + last_notes; std::chrono::steady_clock::now() < until;) {
      bool all = true;
      for (int r = 0; r < size(); ++r) {
        if (r == rank_) continue;
        bool const come = has_come(r);
        if (come ? !agrees(arrival(r, mine_.number)) : family_->has_given_up(world(r)) || !family_->failed()) return false;
        all = all && come;
      }
      if (all) return true;
      if (!family_->pump()) std::this_thread::yield();
    }
    return false;
  }
  /// Names the ranks that are not known to have come; the one waited for may be waiting itself.
  void too_late(int peer) {
    int first = -1;
    std::string missing;
    for (int r = 0; r < size(); ++r) {
      if (r == rank_ || seen_[std::size_t(r)].meetings > std::int64_t(mine_.number)) continue;
      missing += (missing.empty() ? "rank " : ", rank ") + std::to_string(r);
      if (first < 0) first = r;
    }
    if (first < 0) missing = "rank " + std::to_string(first = peer);
    late(first, missing, why_.primitive, int(mine_.number));
  }

  bool has_come(int peer) {
    mpi_note const& n = arrival(peer, mine_.number);
    return n.kind == mpi_note::meeting && n.number == mine_.number;
  }
  bool agrees(mpi_note const& n) const { return n.purpose == mine_.purpose && n.gives == mine_.gives && n.same_call(mine_); }
  void compare(int peer, mpi_note const& n) {
    if (!agrees(n)) fail_names(peer, describe_purpose(mine_), describe_purpose(n), why_.primitive, int(mine_.number));
  }
  static std::string describe_purpose(mpi_note const& n) {
    std::string text(n.primitive, ::strnlen(n.primitive, mpi_note::text_size));
    if (n.purpose == purpose::publish || n.purpose == purpose::ready) return text + " (publish " + std::to_string(n.gives) + ")";
    if (n.purpose == purpose::release) return text + " (release of publish " + std::to_string(n.gives) + ")";
    return text;
  }
  void say_hello() {
    mpi_options const& o = family_->options();
    entry guard(*this, "sp::mpi");
    flight_recorder::listen(family_->recorder());
    gather({purpose::hello, "sp::mpi"}, {o.largest_note, o.largest_message, 0});
    for (int r = 0; r < size() && !family_->failed(); ++r)
      if (mpi_note const& n = gathered_[std::size_t(r)]; n.values[0] != o.largest_note || n.values[1] != o.largest_message)
        fail_pair(errc::rank_mismatch, r,
                  "rank " + std::to_string(r) + " has largest_note and largest_message " + std::to_string(n.values[0]) + " and " +
                      std::to_string(n.values[1]) + ", rank " + std::to_string(rank_) + " has " + std::to_string(o.largest_note) +
                      " and " + std::to_string(o.largest_message),
                  "Give the same numbers on every rank", "sp::mpi", -1);
    if (family_->failed()) raise("sp::mpi", -1);
  }

  int rank_of(int world_rank) const {
    for (int r = 0; r < size(); ++r)
      if (world(r) == world_rank) return r;
    return -1;
  }
  /// A peer is at most one meeting ahead: it cannot finish the next one without us.
  mpi_note& arrival(int peer, std::uint64_t number) { return arrivals_[2 * std::size_t(peer) + number % 2]; }

  enum parting_word : int { here = 1, go, stay };
  void say_parting(parting_word word) noexcept {
    partings_[std::size_t(rank_)] = word;
    mpi_note n;
    n.kind = mpi_note::parting;
    n.context = context();
    n.values[0] = word;
    for (int r = 0; r < size(); ++r)
      if (r != rank_) family_->link().send(world(r), n, 0, [](std::byte*) {});
  }
  template <class Said>
  bool all_parting(Said&& said, std::chrono::milliseconds limit) noexcept {
    auto const end = std::chrono::steady_clock::now() + limit;
    while (!std::all_of(partings_.begin(), partings_.end(), said)) {
      if (std::chrono::steady_clock::now() > end) return false;
      if (!family_->pump()) std::this_thread::yield();
    }
    return true;
  }

  /// How long notes that were sent before a failure are waited for; only a process that is stopped takes longer.
  static constexpr auto last_notes = std::chrono::seconds(2);

  flight_recorder::ticket flight_ = 0; ///< of the operation that meets
  bool meeting_ = false;
  purpose why_{};
  mpi_note mine_{};
  std::vector<mpi_note> arrivals_, gathered_;
  std::vector<int> partings_; ///< the last word of each rank
};

} // namespace sp::detail
