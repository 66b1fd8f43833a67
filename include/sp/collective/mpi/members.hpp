// A group of processes: who is in it, how far each is known to be, and the words and codes of its failures.
// The rank that finds a failure, and the peer it concerns, throw its own code; all other ranks throw `aborted` with who and why.
#pragma once

#include <array>

#include <sp/collective/concepts.hpp>
#include <sp/collective/mpi/family.hpp>
#include <sp/collective/mpi/payload.hpp>

namespace sp::detail {

class mpi_crew : public mpi_member {
public:
  mpi_crew(std::shared_ptr<mpi_family> family, std::vector<int> members, int rank, int context)
      : mpi_member(context), family_(std::move(family)), members_(std::move(members)), rank_(rank), seen_(members_.size()),
        place_(family_->recorder()->join(context, rank, members_)) {}

  int rank() const { return rank_; }
  int size() const { return int(members_.size()); }
  mpi_family& family() const { return *family_; }
  int world(int rank) const { return members_[std::size_t(rank)]; }

  /// Ends the family in the name of this rank.
  void abort(error_info const& why) {
    mpi_failure f;
    f.info = why;
    if (f.info.rank < 0) {
      f.info.rank = rank_;
      f.info.size = size();
    }
    f.world = world(rank_);
    family_->abort(std::move(f));
  }

  void describe_progress(mpi_note& note) const override {
    note.values[0] = std::int64_t(entered_);
    note.values[1] = std::int64_t(met_);
    note.values[2] = inside_;
    note.name(current_);
  }

protected:
  /// What is known of a peer: from its calls, and from its answers to questions.
  struct sight {
    std::int64_t exchanges = -1, meetings = -1; ///< entered; -1: nothing was heard
    bool answered = false, absent = false;      ///< since the wait began; it has no such group
    bool inside = false;
    char primitive[mpi_note::text_size]{};
  };

  /// Marks the process as inside an operation; two threads inside at once are a mistake of the caller.
  struct occupancy {
    mpi_crew& crew;
    occupancy(mpi_crew& c, char const* primitive) : crew(c) {
      if (!c.family_->enter())
        c.refuse(primitive, "another thread of this rank is inside an operation on the same communicator or its groups",
                 "Use a communicator and all groups split from it from one thread at a time");
      c.current_ = primitive;
      c.inside_ = true;
    }
    occupancy(occupancy const&) = delete;
    ~occupancy() {
      crew.inside_ = false;
      crew.family_->leave_operation();
    }
  };
  /// Also looks at what has arrived: a failure elsewhere is thrown at the entry of the next operation.
  struct entry : occupancy {
    entry(mpi_crew& c, char const* primitive) : occupancy(c, primitive) {
      c.require_mpi(primitive);
      if (c.family_->left())
        c.refuse(primitive, "this rank has returned from the body of sp::mpi::run", "Use the communicator inside only");
      c.family_->pump();
      if (c.family_->failed()) c.raise(primitive, int(c.entered_));
    }
  };

  flight_recorder& recorder() const { return *family_->recorder(); }

  [[noreturn]] void refuse(char const* primitive, std::string problem, std::string remedy) const {
    sp::fail({errc::bad_state, std::move(problem), std::move(remedy), primitive, rank_, size()});
  }

  void require_mpi(char const* primitive) const {
    if (!mpi_is_running())
      refuse(primitive, "MPI_Finalize has been called", "Let the last token and handle of a communicator go before");
  }

  static std::string counts(int from, index_t sent, int to, index_t expected) {
    return "rank " + std::to_string(from) + " sends " + std::to_string(sent) + " bytes, rank " + std::to_string(to) +
           " expects " + std::to_string(expected);
  }

  /// Ends the family; this rank and `peer` will throw `code` themselves.
  void fail_pair(errc code, int peer, std::string problem, std::string remedy, char const* primitive, int step) {
    mpi_failure f;
    f.info = {code, std::move(problem), std::move(remedy), primitive, rank_, size(), step, peer};
    f.world = f.one = f.other = world(rank_);
    f.context = context();
    if (code == errc::short_message || code == errc::rank_mismatch) f.other = world(peer);
    family_->fail(std::move(f));
  }
  void fail_counts(int from, index_t sent, int to, index_t expected, char const* primitive, int step) {
    fail_pair(errc::short_message, from == rank_ ? to : from, counts(from, sent, to, expected),
              "Every rank must call the same operations in the same order, with counts that agree", primitive, step);
  }
  void fail_names(int peer, std::string const& mine, std::string const& theirs, char const* primitive, int step) {
    fail_pair(errc::rank_mismatch, peer,
              "rank " + std::to_string(rank_) + " is in " + mine + ", rank " + std::to_string(peer) + " in " + theirs,
              "Every rank must call the same operations in the same order", primitive, step);
  }
  void returned_early(int peer, char const* primitive, int step) {
    fail_pair(errc::peer_failed, peer, "rank " + std::to_string(peer) + " has returned from its body and will not answer",
              "Every rank must call the same operations in the same order", primitive, step);
  }

  /// Asks everybody how far it is. A process that is stopped, or outside the library, does not answer.
  void ask() {
    mpi_note n;
    n.kind = mpi_note::question;
    n.context = context();
    for (int r = 0; r < size(); ++r)
      if (r != rank_) family_->link().send(world(r), n, 0, [](std::byte*) {});
  }
  void forget_answers() {
    for (sight& s : seen_) s.answered = false;
  }
  void hear_answer(int peer, mpi_note const& n) {
    sight& s = seen_[std::size_t(peer)];
    s.answered = true;
    s.absent = n.values[0] < 0;
    if (s.absent) return;
    s.exchanges = n.values[0];
    s.meetings = n.values[1];
    s.inside = n.values[2] != 0;
    std::memcpy(s.primitive, n.primitive, sizeof s.primitive);
    s.primitive[mpi_note::text_size - 1] = 0;
  }

  /// Who is missing, and how far everybody is known to be.
  void late(int peer, std::string const& missing, char const* primitive, int step) {
    std::string problem = "no answer within " + std::to_string(family_->options().deadline.count()) + " ms from " + missing +
                          "; exchanges and meetings entered by rank:";
    for (int r = 0; r < size(); ++r) problem += (r ? ", " : " ") + describe_sight(r);
    fail_pair(errc::timeout, peer, std::move(problem), "Look for the rank that is behind, or raise the deadline", primitive,
              step);
  }
  std::string describe_sight(int r) const {
    if (r == rank_) return std::to_string(entered_) + "+" + std::to_string(met_);
    sight const& s = seen_[std::size_t(r)];
    if (s.absent) return "without this group";
    std::string text = s.exchanges < 0 && s.meetings < 0
                           ? "?"
                           : std::to_string(max(s.exchanges, index_t{0})) + "+" + std::to_string(max(s.meetings, index_t{0}));
    if (!s.answered) return text + " (silent)";
    if (s.inside) text += std::string(" (in ") + s.primitive + ")";
    return text;
  }

  /// Throws what this rank should see of the family's failure: the cause if it is its own, else `aborted`.
  [[noreturn]] void raise(char const* primitive, int step) {
    mpi_failure const& f = family_->cause();
    int const me = world(rank_);
    bool const mine = f.context == context() || f.context == mpi_failure::any_context;
    if (mine && (f.one == me || f.other == me) && !told_) {
      told_ = true;
      error_info info = f.info;
      if (f.context == context() && info.rank != rank_) std::swap(info.rank, info.peer);
      if (info.primitive.empty()) info.primitive = primitive;
      sp::fail(std::move(info));
    }
    sp::fail({errc::aborted, "rank " + std::to_string(f.world) + " of " + std::to_string(family_->ranks()) + " failed: " + f.why,
              "Find the cause there; this communicator and all groups split from its root are unusable", primitive, rank_, size(),
              step, f.world});
  }

  void drop_failure(char const* primitive, int step, char const* problem) {
    mpi_failure f;
    f.provisional = std::uncaught_exceptions() > 0;
    f.info = {errc::bad_state,
              problem,
              f.provisional ? "An exception was on its way" : "Wait for every token, release every exposure",
              primitive,
              rank_,
              size(),
              step};
    f.world = world(rank_);
    family_->fail(std::move(f));
  }

  std::shared_ptr<mpi_family> family_;
  std::vector<int> members_; ///< their ranks in the root
  int rank_;
  std::uint64_t entered_ = 0, met_ = 0; ///< exchanges and meetings
  std::vector<sight> seen_;             ///< by rank of this group
  flight_group place_;
  char const* current_ = "";
  bool inside_ = false, told_ = false; ///< told: has thrown the cause itself; from then on it gets `aborted`
};

} // namespace sp::detail
