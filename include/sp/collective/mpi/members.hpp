// Who is in a group of processes, how far each is known to be, and how failures of the group end its family.
// Words and codes are those of all transports; a timeout also tells how far each rank is known to be.
#pragma once

#include <array>

#include <sp/collective/concepts.hpp>
#include <sp/collective/family/deadline.hpp>
#include <sp/collective/family/members.hpp>
#include <sp/collective/family/operation_id.hpp>
#include <sp/collective/mpi/family.hpp>
#include <sp/collective/mpi/payload.hpp>

namespace sp::detail {

class mpi_members : public group_members, public mpi_receiver {
public:
  mpi_members(std::shared_ptr<mpi_family> family, std::vector<int> world_ranks, int rank, int context)
      : group_members(std::move(world_ranks), context), mpi_receiver(context), family_(std::move(family)), rank_(rank),
        progress_(std::size_t(size())), flight_(family_->recorder()->join(context, rank, this->world_ranks())) {}

  int rank() const noexcept { return rank_; }
  mpi_family& family() const noexcept { return *family_; }

  /// Ends the family in the name of this rank.
  void abort(error_info const& why) { family_->abort(abort_of(rank_, why)); }
  /// After the body of run(): throws a failure that no operation of this rank has thrown.
  void throw_unreported() {
    if (!family_->failed()) return;
    failure const& f = family_->cause();
    if (f.unreported && f.world == family_->world()) {
      failure reported = f;
      append_held(reported, {});
      fail(reported.info);
    }
    if (!family_->has_reported()) throw_cause("sp::mpi::run", int(entered_));
  }

  void report_progress(mpi_control& m) const override {
    m.values[0] = std::int64_t(entered_);
    m.values[1] = std::int64_t(barriers_);
    m.values[2] = inside_;
    m.name(current_);
  }

protected:
  /// What is known of a peer: from its announcements, and from its replies to progress queries.
  struct peer_progress {
    std::int64_t exchanges = -1, barriers = -1; ///< entered; -1: nothing has arrived
    bool replied = false, absent = false;       ///< since the wait began; it has no such group
    bool inside = false;                        ///< an operation of this group, namely:
    char primitive[mpi_control::text_size]{};
  };

  /// Marks the process as inside an operation; two threads inside at once are a mistake of the caller.
  struct occupancy {
    mpi_members& group;
    occupancy(mpi_members& g, char const* primitive) : group(g) {
      if (!g.family_->enter())
        g.refuse(primitive, "another thread of this rank is inside an operation on the same communicator or its groups",
                 "Use a communicator and all groups split from it from one thread at a time");
      g.current_ = primitive;
      g.inside_ = true;
    }
    occupancy(occupancy const&) = delete;
    ~occupancy() {
      group.inside_ = false;
      group.family_->leave_operation();
    }
  };
  /// Also looks at what has arrived: a failure elsewhere is thrown at the entry of the next operation.
  struct entry : occupancy {
    entry(mpi_members& g, char const* primitive) : occupancy(g, primitive) {
      g.require_mpi(primitive);
      if (g.family_->has_returned())
        g.refuse(primitive, "this rank has returned from the body of sp::mpi::run", "Use the communicator inside only");
      g.family_->make_progress();
      g.family_->advance_exchanges();
      if (g.family_->failed()) g.throw_cause(primitive, int(g.entered_));
    }
  };

  flight_recorder& recorder() const { return *family_->recorder(); }

  [[noreturn]] void refuse(char const* primitive, std::string problem, std::string remedy) const {
    group_members::refuse(rank_, primitive, std::move(problem), std::move(remedy));
  }

  void require_mpi(char const* primitive) const {
    if (!mpi_is_running())
      refuse(primitive, "MPI_Finalize has been called", "Let the last token and handle of a communicator go before");
  }

  /// Ends the family; this rank, and `peer` where they disagree, will throw `code` themselves.
  void fail_between(errc code, int peer, std::string problem, std::string remedy, char const* primitive, int step) {
    family_->fail(failure_between(rank_, code, peer, std::move(problem), std::move(remedy), primitive, step));
  }
  void fail_counts(int from, index_t sent, int to, index_t expected, char const* primitive, int step) {
    fail_between(errc::short_message, from == rank_ ? to : from, counts_text(from, sent, to, expected),
                 same_operations_and_counts, primitive, step);
  }
  void fail_operations(int peer, std::string const& mine, std::string const& theirs, char const* primitive, int step) {
    fail_between(errc::rank_mismatch, peer, operations_text(rank_, mine, peer, theirs), same_operations, primitive, step);
  }
  void fail_returned(int peer, char const* primitive, int step) {
    family_->fail(peer_has_returned(rank_, peer, primitive, step));
  }

  /// Asks everybody how far it is. A process that is stopped, or outside the library, does not reply.
  void query_progress() {
    for (int r = 0; r < size(); ++r)
      if (r != rank_) query_progress_of(r);
  }
  void query_progress_of(int peer) {
    mpi_control m;
    m.kind = mpi_control::progress_query;
    m.context = context();
    family_->send_query(world(peer), m);
  }
  /// A wait asks those it waits for. Everybody is asked for the text of a timeout only: when a third of the deadline is over, and,
  /// where that is long ago then, shortly before its end.
  class progress_queries {
  public:
    explicit progress_queries(std::chrono::milliseconds deadline) : deadline_(deadline) {}
    bool everybody_now(std::chrono::steady_clock::duration left) {
      bool const late = left <= std::chrono::seconds(1) && deadline_ > std::chrono::seconds(3);
      bool const now = asked_ == 0 ? left <= deadline_ * 2 / 3 : asked_ == 1 && late;
      asked_ += now;
      return now;
    }

  private:
    std::chrono::milliseconds deadline_;
    int asked_ = 0;
  };
  void forget_replies() {
    for (peer_progress& p : progress_) p.replied = false;
  }
  void receive_reply(int peer, mpi_control const& m) {
    peer_progress& p = progress_[std::size_t(peer)];
    p.replied = true;
    p.absent = m.values[0] < 0;
    if (p.absent) return;
    p.exchanges = m.values[0];
    p.barriers = m.values[1];
    p.inside = m.values[2] != 0;
    std::memcpy(p.primitive, m.primitive, sizeof p.primitive);
    p.primitive[mpi_control::text_size - 1] = 0;
  }

  /// Who is missing, and how far everybody is known to be.
  void fail_late(int peer, std::string const& missing, char const* primitive, int step) {
    std::string problem =
        no_answer_within(family_->options().deadline) + " from " + missing + "; exchanges and barriers entered by rank:";
    for (int r = 0; r < size(); ++r) problem += (r ? ", " : " ") + progress_text(r);
    fail_between(errc::timeout, peer, std::move(problem), "Look for the rank that is behind, or raise the deadline", primitive,
                 step);
  }
  std::string progress_text(int r) const {
    if (r == rank_) return std::to_string(entered_) + "+" + std::to_string(barriers_);
    peer_progress const& p = progress_[std::size_t(r)];
    if (p.absent) return "without this group";
    std::string text = p.exchanges < 0 && p.barriers < 0
                           ? "?"
                           : std::to_string(max(p.exchanges, index_t{0})) + "+" + std::to_string(max(p.barriers, index_t{0}));
    if (!p.replied) return text + " (silent)";
    if (p.inside) text += std::string(" (in ") + p.primitive + ")";
    return text;
  }

  /// `held`: the world ranks with which a large message is under way at the end of the deadline.
  [[noreturn]] void throw_cause(char const* primitive, int step, std::vector<int> const& held = {}) {
    family_->set_reported();
    failure f = family_->cause();
    append_held(f, held);
    group_members::throw_cause(f, family_->ranks(), rank_, threw_cause_, primitive, step);
  }

  /// With what dropped tokens have left behind before.
  void append_held(failure& f, std::vector<int> held) const {
    held.insert(held.end(), family_->held_by_drops().begin(), family_->held_by_drops().end());
    if (held.empty()) return;
    f.info.problem += "; " + memory_held_text(held);
    if (!f.why.empty()) f.why += "; " + memory_held_text(held); // else there was no memory for it, and the problem is told
  }

  std::shared_ptr<mpi_family> family_;
  int rank_;
  std::uint64_t entered_ = 0, barriers_ = 0; ///< exchanges and barriers entered
  std::vector<peer_progress> progress_;      ///< by rank of this group
  flight_group flight_;
  char const* current_ = "";                  ///< primitive of the operation that this rank is inside of
  bool inside_ = false, threw_cause_ = false; ///< threw_cause: from then on this rank throws `aborted`
};

} // namespace sp::detail
