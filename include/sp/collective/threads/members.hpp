// Who is in a group of thread ranks, what each of them keeps there, and the words and codes of its failures.
// The rank that finds a failure, and the peer it concerns, throw its own code; all other ranks throw `aborted` with who and why.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <sp/collective/concepts.hpp>
#include <sp/collective/threads/channel.hpp>
#include <sp/collective/threads/family.hpp>

namespace sp::detail {

class thread_group;

class thread_crew {
public:
  static constexpr std::uint64_t publications = 4; ///< at most this many exposures open at a time

  thread_crew(std::shared_ptr<thread_family> family, std::vector<int> members)
      : family_(std::move(family)), members_(std::move(members)), seats_(std::make_unique<seat[]>(members_.size())) {
    int const number = family_->new_group();
    for (std::size_t r = 0; r < members_.size(); ++r) {
      seats_[r].recorder = family_->recorder(world(int(r))).get();
      seats_[r].place = recorder(int(r)).join(number, int(r), members_);
      seats_[r].posted.resize(members_.size());
      seats_[r].registered.resize(members_.size());
      for (open_exchange& e : seats_[r].exchanges) e.messages.resize(2 * members_.size());
    }
  }

  int size() const { return int(members_.size()); }
  thread_family& family() const { return *family_; }
  int world(int rank) const { return members_[std::size_t(rank)]; }

  /// Ends the family in the name of `rank`.
  void abort(int rank, error_info const& why) {
    error_info info = why;
    if (info.rank < 0) {
      info.rank = rank;
      info.size = size();
    }
    failure f;
    f.info = std::move(info);
    f.world = world(rank);
    family_->fail(std::move(f));
  }

protected:
  struct message {
    rendezvous* slot = nullptr;
    std::uint64_t ticket = 0;
    int peer = 0;
    bool outgoing = false;
    index_t bytes = 0;
  };
  struct open_exchange {
    bool open = false;
    char const* primitive = "";
    flight_recorder::ticket flight = 0;
    std::size_t left = 0;          ///< messages that have not moved: the first `left`, incoming before outgoing
    std::vector<message> messages; ///< room for one per peer and direction
  };
  /// Why a rank is in meet(). Ranks that meet for different reasons would read each other's pieces or colors too early or too late.
  struct purpose {
    enum operation { none, barrier, publish, release, split } kind = none;
    char const* primitive = "";
    std::uint64_t publication = 0;

    bool matches(purpose const& o) const {
      return kind == o.kind && publication == o.publication && std::string_view(primitive) == o.primitive;
    }
    std::string describe() const {
      std::string text = primitive;
      if (kind == publish) return text + " (publish " + std::to_string(publication) + ")";
      if (kind == release) return text + " (release of publish " + std::to_string(publication) + ")";
      return text;
    }
  };
  /// What a rank keeps here. Plain members are its own or ordered by the barrier; peers read the atomic ones at any time.
  struct alignas(64) seat {
    std::atomic<bool> busy{false};
    std::atomic<std::uint64_t> entered{0};  ///< exchanges whose messages are posted
    std::atomic<std::uint64_t> barriers{0}; ///< barriers entered
    std::atomic<std::uint64_t> joined{0};   ///< publications entered
    std::array<std::atomic<std::uint64_t>, publications>
        left{}; ///< number + 1 of the publications left, by number % publications
    std::array<std::span<piece const>, publications> published{};
    std::array<open_exchange, rendezvous::outstanding> exchanges{};
    std::vector<std::uint64_t> posted, registered; ///< messages opened so far, by peer
    purpose here{};
    int color = 0, key = 0;
    flight_recorder* recorder = nullptr;
    flight_group place{};
    flight_recorder::ticket meeting = 0; ///< the operation that meet() is part of
    std::shared_ptr<thread_group> made;
    bool told = false; ///< has thrown the cause itself; from then on it gets `aborted`
  };

  /// Marks a rank as inside an operation; two threads inside at once are a mistake of the caller.
  struct occupancy {
    seat& mine;
    occupancy(thread_crew& g, int rank, char const* primitive) : mine(g.at(rank)) {
      if (mine.busy.exchange(true, std::memory_order_acquire))
        g.refuse(rank, primitive, "another thread of this rank is inside an operation on the same communicator",
                 "Use a communicator from one thread at a time, or split one per thread");
    }
    occupancy(occupancy const&) = delete;
    ~occupancy() { mine.busy.store(false, std::memory_order_release); }
  };
  struct entry : occupancy {
    entry(thread_crew& g, int rank, char const* primitive) : occupancy(g, rank, primitive) {
      if (g.family_->failed()) g.raise(rank, primitive, int(this->mine.entered.load(std::memory_order_relaxed)));
    }
  };

  flight_recorder& recorder(int rank) const { return *at(rank).recorder; }
  seat& at(int rank) const { return seats_[std::size_t(rank)]; }

  [[noreturn]] void refuse(int rank, char const* primitive, std::string problem, std::string remedy) const {
    fail({errc::bad_state, std::move(problem), std::move(remedy), primitive, rank, size()});
  }

  static std::string counts(int from, index_t sent, int to, index_t expected) {
    return "rank " + std::to_string(from) + " sends " + std::to_string(sent) + " bytes, rank " + std::to_string(to) +
           " expects " + std::to_string(expected);
  }

  /// Ends the family; this rank and `peer` will throw `code` themselves.
  void fail_pair(int rank, errc code, int peer, std::string problem, std::string remedy, char const* primitive, int step) {
    failure f;
    f.info = {code, std::move(problem), std::move(remedy), primitive, rank, size(), step, peer};
    f.world = world(rank);
    f.group = this;
    f.one = rank;
    f.other = code == errc::short_message || code == errc::rank_mismatch ? peer : rank;
    family_->fail(std::move(f));
  }

  void mismatch(int rank, char const* primitive, message const& m) {
    int const from = m.outgoing ? rank : m.peer, to = m.outgoing ? m.peer : rank;
    half const &f = m.slot->from, &t = m.slot->to;
    bool const counted = f.bytes != t.bytes || f.exchange != t.exchange;
    std::string problem = counts(from, f.bytes, to, t.bytes);
    if (f.exchange != t.exchange)
      problem += "; the send belongs to exchange " + std::to_string(f.exchange) + ", the receive to exchange " +
                 std::to_string(t.exchange);
    if (!counted)
      problem = "rank " + std::to_string(from) + " is in " + f.primitive + ", rank " + std::to_string(to) + " in " + t.primitive;
    fail_pair(rank, counted ? errc::short_message : errc::rank_mismatch, m.peer, std::move(problem),
              "Every rank must call the same operations in the same order, with counts that agree", primitive,
              int(m.outgoing ? f.exchange : t.exchange));
  }

  void returned_early(int rank, int peer, char const* primitive, int step) {
    fail_pair(rank, errc::peer_failed, peer, "rank " + std::to_string(peer) + " has returned from its body and will not answer",
              "Every rank must call the same operations in the same order", primitive, step);
  }

  /// How far everybody came; the flight records tell the rest.
  void late(int rank, int peer, char const* primitive, int step) {
    std::string problem =
        "no answer within " + std::to_string(family_->deadline().count()) + " ms; exchanges and barriers entered by rank:";
    for (int r = 0; r < size(); ++r)
      problem += (r ? ", " : " ") + std::to_string(at(r).entered.load()) + "+" + std::to_string(at(r).barriers.load());
    fail_pair(rank, errc::timeout, peer, std::move(problem), "Look for the rank that is behind, or raise the deadline", primitive,
              step);
  }

  /// Throws what this rank should see of the family's failure: the cause if it is its own, else `aborted`.
  [[noreturn]] void raise(int rank, char const* primitive, int step) const {
    failure const f = family_->cause();
    if (f.group == this && (f.one == rank || f.other == rank) && !at(rank).told) {
      at(rank).told = true;
      error_info info = f.info;
      if (info.rank != rank) std::swap(info.rank, info.peer);
      fail(std::move(info));
    }
    fail({errc::aborted, "rank " + std::to_string(f.world) + " of " + std::to_string(family_->ranks()) + " failed: " + f.why,
          "Find the cause there; this communicator and all groups split from its root are unusable", primitive, rank, size(),
          step, f.world});
  }

  void drop_failure(int rank, char const* primitive, int step, char const* problem) {
    failure f;
    f.provisional = std::uncaught_exceptions() > 0;
    f.info = {errc::bad_state,
              problem,
              f.provisional ? "An exception was on its way" : "Wait for every token, release every exposure",
              primitive,
              rank,
              size(),
              step};
    f.world = world(rank);
    family_->fail(std::move(f));
  }

  std::shared_ptr<thread_family> family_;
  std::vector<int> members_; ///< their ranks in run()
  std::unique_ptr<seat[]> seats_;
};

} // namespace sp::detail
