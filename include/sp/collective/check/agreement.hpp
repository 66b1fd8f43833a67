// Ranks compare what they are about to do: one small all-gather of a fingerprint, then all of them go on or all of them throw.
// The error names the field, the values, the majority and the ranks that differ from it; nobody waits for a deadline.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <sp/collective/check/fingerprint.hpp>
#include <sp/collective/operations.hpp>

namespace sp {

namespace detail {

/// "rank 2", "ranks 0, 1, 3", "ranks 0, 1, ... (62 ranks)".
inline std::string rank_list(std::vector<int> const& ranks) {
  constexpr std::size_t most = 8;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < std::min(ranks.size(), most); ++i) text += (i ? ", " : "") + std::to_string(ranks[i]);
  return ranks.size() > most ? text + ", ... (" + std::to_string(ranks.size()) + " ranks)" : text;
}

/// Ranks that hold the same value, the largest group first.
struct camp {
  std::string value;
  std::vector<int> ranks;
};
template <class Same, class Text>
std::vector<camp> camps(std::span<fingerprint const> all, Same same, Text text) {
  std::vector<camp> list;
  std::vector<std::size_t> first; // of each camp
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::size_t c = 0;
    while (c < first.size() && !same(all[first[c]], all[i])) ++c;
    if (c == first.size()) {
      first.push_back(i);
      list.push_back({text(all[i]), {}});
    }
    list[c].ranks.push_back(all[i].rank());
  }
  std::stable_sort(list.begin(), list.end(), [](camp const& a, camp const& b) { return a.ranks.size() > b.ranks.size(); });
  return list;
}

[[noreturn]] inline void fail_mismatch(std::string problem, char const* remedy, fingerprint const& mine, std::size_t size,
                                       int peer) {
  error_info info{errc::rank_mismatch, std::move(problem), remedy};
  info.rank = mine.rank();
  info.size = int(size);
  info.peer = peer;
  fail(std::move(info));
}

/// The difference in one thing, told by its camps.
[[noreturn]] inline void fail_camps(char const* what, std::vector<camp> const& list, std::string const& also,
                                    fingerprint const& mine, std::size_t size) {
  bool const majority = list[0].ranks.size() > list[1].ranks.size();
  std::string problem;
  if (list.size() == 2 && majority) {
    camp const& few = list[1];
    problem = rank_list(few.ranks) + (few.ranks.size() == 1 ? " differs from " : " differ from ") + rank_list(list[0].ranks) +
              " in " + what + ": " + few.value + " against " + list[0].value;
  } else {
    problem = std::string(what) + " is not the same on all ranks: ";
    for (std::size_t c = 0; c < list.size(); ++c) problem += (c ? "; " : "") + list[c].value + " on " + rank_list(list[c].ranks);
  }
  auto holds = [&](camp const& c) { return std::find(c.ranks.begin(), c.ranks.end(), mine.rank()) != c.ranks.end(); };
  camp const& others = list[holds(list[1]) ? 0 : 1];
  fail_mismatch(problem + also,
                "Give every rank the same arguments, options and batches, and call the same operations in the same order", mine,
                size, others.ranks[0]);
}

/// Throws rank_mismatch unless all agree. A rank that refused the call itself returns: it has an error of its own to throw.
inline void judge(std::span<fingerprint const> all, fingerprint const& mine) {
  if (mine.refused()) return;
  std::string refusals;
  int refuser = -1;
  for (fingerprint const& f : all)
    if (f.refused()) {
      refusals += (refusals.empty() ? "rank " : ", rank ") + std::to_string(f.rank()) + " refused " + f.operation() + " with " +
                  f.refusal();
      if (refuser < 0) refuser = f.rank();
    }
  if (refuser >= 0)
    fail_mismatch(std::move(refusals), "Look at the error of that rank; nothing was sent", mine, all.size(), refuser);
  auto differs = [&](std::size_t k) {
    return std::any_of(all.begin(), all.end(), [&](fingerprint const& f) { return f[field(k)] != mine[field(k)]; });
  };
  if (std::any_of(all.begin(), all.end(), [&](fingerprint const& f) { return !f.same_operation(mine); }))
    fail_camps("operation",
               camps(
                   all, [](fingerprint const& a, fingerprint const& b) { return a.same_operation(b); },
                   [](fingerprint const& f) { return f.operation(); }),
               "", mine, all.size());
  for (std::size_t k = 0; k < std::size_t(field::count); ++k) {
    if (!differs(k)) continue;
    std::string also;
    for (std::size_t later = k + 1; later < std::size_t(field::count); ++later)
      if (differs(later)) also += (also.empty() ? " (also in " : ", ") + std::string(field_texts[later].name);
    if (!also.empty()) also += ")";
    fail_camps(field_texts[k].name,
               camps(
                   all, [k](fingerprint const& a, fingerprint const& b) { return a[field(k)] == b[field(k)]; },
                   [k](fingerprint const& f) { return value_text(field_texts[k].kind, f[field(k)]); }),
               also, mine, all.size());
  }
}

/// The fingerprints of ranks that are spread over one group or over nested groups (a mesh): gathered one group after the other.
class agreement {
public:
  agreement(fingerprint const& mine, index_t ranks, allocator& scratch) : scratch_(scratch), all_(scratch, {ranks}), mine_(mine) {
    all_.tensor(0) = mine;
  }

  /// After it every rank of `comm` holds what any of them held before.
  template <communicator C>
  void gather(C const& comm, char const* primitive) {
    static_assert(std::is_same_v<typename C::memory_type, host_memory>,
                  "sp: check levels 2 and 3 send fingerprints from host memory, which this communicator does not read");
    index_t const n = comm.size(), me = comm.rank();
    if (n == 1) return;
    auto part = [&](index_t r) { return all_.tensor.narrow(0, r * have_, have_); };
    if (me > 0) std::copy_n(part(0).data, have_, part(me).data);
    parcel_builder receives(scratch_, n, n);
    for (index_t r = 0; r < n; ++r) {
      receives.open(int(r));
      if (r != me) receives.add(part(r));
    }
    piece const sent = as_piece(part(me));
    sp::all_gather_v(comm, primitive, {&sent, 1}, receives.parcels(), scratch_).wait();
    have_ *= n;
  }
  /// Where ranks are about to throw, nobody leaves before everybody has the verdict: the first to end the communicator would
  /// otherwise turn it into `aborted` for those who still wait for fingerprints.
  template <communicator C>
  void settle(C const& comm) const {
    if (unanimous()) return;
#if defined(__cpp_exceptions)
    try {
      sp::barrier(comm);
    } catch (error const&) { // the verdict is the cause, whatever has become of the transport
    }
#else
    sp::barrier(comm);
#endif
  }
  void judge() const { detail::judge({all_.tensor.data, std::size_t(have_)}, mine_); }

private:
  bool unanimous() const {
    std::span<fingerprint const> const all(all_.tensor.data, std::size_t(have_));
    return std::all_of(all.begin(), all.end(), [&](fingerprint const& f) { return !f.refused() && f.same_call(mine_); });
  }

  allocator& scratch_;
  owned<fingerprint, 1> all_;
  fingerprint const& mine_;
  index_t have_ = 1;
};

} // namespace detail

/// What ledgers and errors of a transport call the messages of an agreement.
inline constexpr char const* agreement_primitive = "check";

/// Compares everybody's `mine` and returns if they agree; otherwise every rank throws rank_mismatch. Blocking; one all-gather of
/// sizeof(fingerprint) bytes per rank. A rank whose fingerprint has refused() returns and throws its own error next, the others
/// throw now. Nothing is left half done: after a rank_mismatch of this kind the communicator can be used on.
template <communicator C>
void agree(C const& comm, fingerprint const& mine, allocator& scratch, char const* primitive = agreement_primitive) {
  detail::agreement all(mine, comm.size(), scratch);
  all.gather(comm, primitive);
  all.settle(comm);
  all.judge();
}

/// Bytes an agreement over `ranks` ranks takes from its allocator, in one group or in nested ones.
inline index_t agreement_scratch(index_t ranks) {
  byte_counter c;
  owned<fingerprint, 1> all(c, {ranks});
  parcel_builder receives(c, ranks, ranks);
  return c.bytes() + all_gather_scratch(int(ranks));
}

namespace detail {

/// Runs `local`, the checks of this rank alone, then `compare(fingerprint)`, in which all ranks take part, whatever became of
/// `local`. In programs without exceptions, or whose error handler ends the process, a rank that fails locally takes part in
/// nothing.
template <class Local, class Compare>
void check_together(fingerprint& f, Local&& local, Compare&& compare) {
#if defined(__cpp_exceptions)
  auto tell = [&] {
    try {
      compare(f);
    } catch (...) { // the rank's own failure is the one to report
    }
  };
  try {
    local();
  } catch (error const& e) {
    f.refuse(e.code());
    tell();
    throw;
  } catch (...) {
    f.refuse();
    tell();
    throw;
  }
#else
  local();
#endif
  compare(f);
}

/// Levels are 0, 1, 2 and 3.
inline int check_level(int level, char const* primitive, int rank, int size) {
  if (level < 0 || level > 3)
    fail({errc::bad_state, "check level " + std::to_string(level),
          "0 none, 1 local arguments, 2 also compares the ranks, 3 also looks for NaN, infinities and writes outside of blocks",
          primitive, rank, size});
  return level;
}

} // namespace detail
} // namespace sp
