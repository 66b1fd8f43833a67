// When a family that has not failed may free its communicator: when every rank has returned and no message is under way any more.
// Two rounds over a tree of ranks, up and down again, so a rank sends at most 18 messages however many ranks there are.
#pragma once

#include <algorithm>

#include <sp/collective/mpi/link.hpp>

namespace sp::detail {

/// Round 0: everybody has returned, so nobody begins anything. Round 1: each query of a rank has its reply, so nothing is
/// under way. A rank tells its parent when it and all below it are so far; what the root then knows goes down again.
class mpi_termination {
public:
  mpi_termination(int rank, int ranks) : rank_(rank), ranks_(ranks) {}

  /// Tells who is to know by send(rank, message), as far as rounds have come. `returned` and `idle` are about this rank.
  template <class Send>
  void advance(bool returned, bool idle, Send&& send) {
    for (int r = 0; r < 2; ++r) {
      round& now = rounds_[r];
      if (!now.parent_knows && now.below == children() && (r == 0 ? returned : idle)) {
        now.parent_knows = true;
        if (rank_ > 0)
          send((rank_ - 1) / most_children, message(r, false));
        else
          now.complete = true;
      }
      if (!now.complete) return;
      for (; now.notified < children(); ++now.notified) send(first_child() + now.notified, message(r, true));
    }
  }
  void receive(mpi_control const& n) {
    round& now = rounds_[n.number & 1];
    if (n.purpose)
      now.complete = true;
    else
      ++now.below;
  }
  bool everybody_has_returned() const { return rounds_[0].complete; }
  /// Everybody knows, or will without this rank.
  bool done() const { return rounds_[1].complete && rounds_[1].notified == children(); }

private:
  struct round {
    int below = 0, notified = 0; ///< children who have said that all below them are so far; children who know that all are
    bool parent_knows = false, complete = false;
  };
  static constexpr int most_children = 8;
  int first_child() const { return most_children * rank_ + 1; }
  int children() const { return std::clamp(ranks_ - first_child(), 0, most_children); }
  static mpi_control message(int round, bool down) {
    mpi_control n;
    n.kind = mpi_control::termination;
    n.number = std::uint64_t(round);
    n.purpose = down;
    return n;
  }

  int rank_, ranks_;
  round rounds_[2];
};

} // namespace sp::detail
