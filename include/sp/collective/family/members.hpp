// Who is in a group, and what its ranks throw when something fails: the same codes and words for every transport.
// The rank that finds a failure, and the peer it concerns, throw its own code; all other ranks throw `aborted` with who and why.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sp/collective/family/failure.hpp>
#include <sp/collective/own_parcels.hpp>
#include <sp/core/sort.hpp>

namespace sp::detail {

inline constexpr char const* same_operations = "Every rank must call the same operations in the same order";
inline constexpr char const* same_operations_and_counts =
    "Every rank must call the same operations in the same order, with counts that agree";

/// What a rank throws because of a failure that is not its own, or that it has thrown already.
inline constexpr char const* family_is_over =
    "Find the cause there; this communicator and all groups split from its root are unusable";

/// "rank 0 is in a, rank 1 in b".
inline std::string operations_text(int rank, std::string const& mine, int peer, std::string const& theirs) {
  return "rank " + std::to_string(rank) + " is in " + mine + ", rank " + std::to_string(peer) + " in " + theirs;
}

/// Ranks that give `color`, ordered by their key, then by rank: the new group of each of them.
template <class ColorOf, class KeyOf, class Color>
std::vector<int> ranks_of_color(int size, ColorOf&& color_of, KeyOf&& key_of, Color color) {
  std::vector<int> ranks;
  for (int r = 0; r < size; ++r)
    if (color_of(r) == color) ranks.push_back(r);
  detail::sort(ranks, [&](int a, int b) { return key_of(a) < key_of(b); });
  return ranks;
}

/// Which peers a list has named already. Starting another list costs nothing: marks are numbers of lists.
class peer_marks {
public:
  explicit peer_marks(std::size_t ranks = 0) : list_of_(ranks, 0) {}
  void start() noexcept { ++list_; }
  /// False if the list has named the peer before.
  [[nodiscard]] bool mark(int peer) noexcept { return std::exchange(list_of_[std::size_t(peer)], list_) != list_; }

private:
  std::vector<std::uint64_t> list_of_; ///< the last list that named each peer
  std::uint64_t list_ = 0;
};

/// The ranks of one group.
class group_members {
public:
  static constexpr std::uint64_t outstanding = 8;  ///< at most this many exchanges open at a time, however old
  static constexpr std::uint64_t publications = 4; ///< at most this many publications open at a time

  /// `number` tells the group from all others of its family.
  group_members(std::vector<int> world_ranks, int number) : world_ranks_(std::move(world_ranks)), number_(number) {}

  int size() const noexcept { return int(world_ranks_.size()); }
  int number() const noexcept { return number_; }
  int world(int rank) const { return world_ranks_[std::size_t(rank)]; }
  std::vector<int> const& world_ranks() const noexcept { return world_ranks_; }
  /// -1 if the rank of the world is in no place of this group.
  int rank_of(int world_rank) const {
    auto const at = std::find(world_ranks_.begin(), world_ranks_.end(), world_rank);
    return at == world_ranks_.end() ? -1 : int(at - world_ranks_.begin());
  }

  /// For the text of an error that names ranks of this group: which ranks of the world they are, where the numbers differ.
  std::string world_text(int rank, int peer = -1) const {
    int const first = peer < 0 ? rank : std::min(rank, peer), last = std::max(rank, peer);
    if (world(first) == first && world(last) == last) return {};
    std::string text = "; rank " + std::to_string(first) + " of this group is world rank " + std::to_string(world(first));
    if (last != first) text += ", rank " + std::to_string(last) + " is world rank " + std::to_string(world(last));
    return text;
  }

  /// Misuse by this rank alone: nothing was sent, nothing has ended.
  [[noreturn]] void refuse(int rank, char const* primitive, std::string problem, std::string remedy) const {
    fail({errc::bad_state, std::move(problem) + world_text(rank), std::move(remedy), primitive, rank, size()});
  }

  /// Among a rank's exchanges: that of `number`, or one that is not. Where nothing is open for long they follow each other in a ring.
  template <class Exchange>
  static Exchange& exchange_of(std::array<Exchange, outstanding>& all, std::uint64_t number) noexcept {
    std::size_t const usual = number % outstanding;
    for (std::size_t i = 0; i < outstanding; ++i)
      if (Exchange& e = all[(usual + i) % outstanding]; e.number == number) return e;
    return all[usual];
  }
  /// One that is not open, for the exchange that gets `number`; bad_state if there is none.
  template <class Exchange>
  Exchange& unused_exchange(std::array<Exchange, outstanding>& all, std::uint64_t number, int rank, char const* primitive) const {
    for (std::size_t i = 0; i < outstanding; ++i)
      if (Exchange& e = all[(number + i) % outstanding]; !e.open) return e;
    refuse_exchange(rank, primitive);
  }
  [[noreturn]] void refuse_exchange(int rank, char const* primitive) const {
    refuse(rank, primitive, std::to_string(outstanding) + " exchanges are open already",
           "Wait for a token before the next exchange; a call of sp has up to three of its own open");
  }
  [[noreturn]] void refuse_publication(int rank, char const* primitive) const {
    refuse(rank, primitive, std::to_string(publications) + " publications are open already",
           "Release one before publishing again");
  }

  /// Local arguments of an exchange: peers exist, and each occurs once per direction.
  void check_peers(int rank, traffic const& t, peer_marks& marks) const {
    for (std::span<parcel const> list : {t.sends, t.receives}) {
      marks.start();
      for (parcel const& p : list) {
        if (p.peer < 0 || p.peer >= size())
          refuse(rank, t.primitive, "a parcel names peer " + std::to_string(p.peer), "Peers are ranks of this group");
        if (!marks.mark(p.peer))
          refuse(rank, t.primitive, "two parcels in one direction name peer " + std::to_string(p.peer),
                 "Put all pieces for a peer into one parcel");
      }
    }
  }

  /// abort() of a communicator: the family ends in the name of `rank`.
  failure abort_of(int rank, error_info why) const {
    failure f;
    if (why.rank < 0) {
      why.rank = rank;
      why.size = size();
    }
    f.info = std::move(why);
    f.world = world(rank);
    return f;
  }
  /// Found by `rank`, which will throw `code`; so will `peer` where the two of them disagree.
  failure failure_between(int rank, errc code, int peer, std::string problem, std::string remedy, char const* primitive,
                          int step) const {
    failure f;
    f.info = {code, std::move(problem) + world_text(rank, peer), std::move(remedy), primitive, rank, size(), step, peer};
    f.group = number_;
    f.world = f.one = f.other = world(rank);
    if (code == errc::short_message || code == errc::rank_mismatch) f.other = world(peer);
    return f;
  }
  failure peer_has_returned(int rank, int peer, char const* primitive, int step) const {
    return failure_between(rank, errc::peer_failed, peer,
                           "rank " + std::to_string(peer) + " has returned from its body and will not answer", same_operations,
                           primitive, step);
  }
  failure dropped_token(int rank, char const* primitive, int step) const {
    return dropped(rank, "a token was destroyed without wait()", primitive, step);
  }
  failure interrupted_operation(int rank, char const* primitive, int step) const {
    return dropped(rank, "an exception came in the middle of an operation", primitive, step);
  }
  failure dropped_publication(int rank, char const* primitive) const {
    return dropped(rank, "a publication was destroyed without release()", primitive, -1);
  }

  /// Throws what `rank` should see of its family's failure: the cause if it is its own, once; else `aborted`.
  [[noreturn]] void throw_cause(failure const& f, int family_size, int rank, bool& thrown_already, char const* primitive,
                                int step) const {
    if (f.concerns(number_, world(rank)) && !thrown_already) {
      thrown_already = true;
      error_info info = f.info;
      if (f.group == number_ && info.rank != rank) std::swap(info.rank, info.peer);
      if (info.primitive.empty()) info.primitive = primitive;
      fail(std::move(info));
    }
    fail({errc::aborted,
          "rank " + std::to_string(f.world) + " of " + std::to_string(family_size) +
              " failed: " + (f.why.empty() ? describe(f.info) : f.why),
          family_is_over, primitive, rank, size(), step, f.world});
  }

private:
  /// By the caller, or by an exception that is on its way.
  failure dropped(int rank, char const* problem, char const* primitive, int step) const {
    failure f;
    f.unreported = true;
    f.provisional = std::uncaught_exceptions() > 0;
    f.info = {errc::bad_state,
              problem + world_text(rank),
              f.provisional ? "An exception was on its way" : "Wait for every token, release every publication",
              primitive,
              rank,
              size(),
              step};
    f.world = world(rank);
    return f;
  }

  std::vector<int> world_ranks_;
  int number_;
};

} // namespace sp::detail
