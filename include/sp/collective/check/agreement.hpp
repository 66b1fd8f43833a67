// Ranks compare what they are about to do: one small all-gather of a fingerprint, then all of them go on or all of them throw.
// The error names the field, the values, the majority and the ranks that differ from it; nobody waits for a deadline.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <sp/collective/check/fingerprint.hpp>
#include <sp/collective/operations.hpp>
#include <sp/core/sort.hpp>

namespace sp {

namespace detail {

/// "rank 2", "ranks 0, 1, 3", "ranks 0, 1, ... (62 ranks)".
inline std::string rank_list(std::vector<int> const& ranks) {
  constexpr std::size_t most = 8;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size() && i < most; ++i) text += (i ? ", " : "") + std::to_string(ranks[i]);
  return ranks.size() > most ? text + ", ... (" + std::to_string(ranks.size()) + " ranks)" : text;
}

/// Whether `test` holds for every element of a list.
template <class List, class Test>
bool every(List const& list, Test test) {
  for (auto const& x : list)
    if (!test(x)) return false;
  return true;
}

/// Ranks that hold the same value.
struct shared_value {
  std::string value;
  std::vector<int> ranks;
};
/// Every value once, the one that most ranks hold first; `same` and `text` compare and write what a record holds.
template <class Same, class Text>
std::vector<shared_value> ranks_by_value(std::span<call_record const> all, Same same, Text text) {
  std::vector<shared_value> list;
  std::vector<std::size_t> first; // rank that holds the value, per entry of list
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::size_t v = 0;
    while (v < first.size() && !same(all[first[v]], all[i])) ++v;
    if (v == first.size()) {
      first.push_back(i);
      list.push_back({text(all[i]), {}});
    }
    list[v].ranks.push_back(all[i].rank());
  }
  detail::sort(list, [](shared_value const& a, shared_value const& b) { return a.ranks.size() > b.ranks.size(); });
  return list;
}

/// The ranks of one call, seen by one of them: throws the difference there is, told in the words of this rank's fingerprint. There is
/// one Fingerprint; as a template the class costs only programs that compare ranks the time to compile its sentences.
template <class Fingerprint>
class comparison {
public:
  using record = typename Fingerprint::record_type;
  comparison(std::span<record const> all, Fingerprint const& mine) : all_(all), mine_(mine) {}

  void throw_if_refused() const {
    std::string refusals;
    int refuser = -1;
    for (record const& r : all_)
      if (r.refused()) {
        refusals += (refusals.empty() ? "rank " : ", rank ") + std::to_string(r.rank()) + " refused " + r.operation() + " with " +
                    r.refusal();
        if (refuser < 0) refuser = r.rank();
      }
    if (refuser >= 0) fail_mismatch(std::move(refusals), "Look at the error of that rank; nothing was sent", refuser);
  }

  void throw_if_operations_differ() const {
    auto same = [](record const& a, record const& b) { return a.same_operation(b); };
    if (every(all_, [&](record const& r) { return same(r, mine_.record()); })) return;
    fail_difference("operation", ranks_by_value(all_, same, [](record const& r) { return r.operation(); }), "");
  }

  /// The first field that differs is told in full, the others by name.
  void throw_if_fields_differ() const {
    for (std::size_t k = 0; k < mine_.fields(); ++k) {
      if (!differs(k)) continue;
      std::string also;
      for (std::size_t later = k + 1; later < mine_.fields(); ++later)
        if (differs(later)) also += (also.empty() ? " (also in " : ", ") + std::string(mine_.name_of(later));
      if (!also.empty()) also += ")";
      auto value = [&](record const& r) { return r.find(mine_.name_of(k)); };
      fail_difference(mine_.name_of(k),
                      ranks_by_value(
                          all_, [&](auto const& a, auto const& b) { return same_value(value(a), value(b)); },
                          [&](record const& r) { return mine_.text_of(k, value(r)); }),
                      also);
    }
    auto count = [](record const& r) { return r.fields(); };
    if (!every(all_, [&](record const& r) { return count(r) == mine_.fields(); }))
      fail_difference("number of compared fields", // a peer compares something that this rank has no name for
                      ranks_by_value(
                          all_, [&](auto const& a, auto const& b) { return count(a) == count(b); },
                          [&](record const& r) { return std::to_string(count(r)); }),
                      "");
  }

private:
  static bool same_value(std::uint64_t const* a, std::uint64_t const* b) { return a && b ? *a == *b : a == b; }
  bool differs(std::size_t k) const {
    std::uint64_t const* const own = mine_.record().find(mine_.name_of(k));
    return !every(all_, [&](record const& r) { return same_value(r.find(mine_.name_of(k)), own); });
  }

  [[noreturn]] void fail_mismatch(std::string problem, char const* remedy, int peer) const {
    error_info info{errc::rank_mismatch, std::move(problem), remedy};
    info.rank = mine_.record().rank();
    info.size = int(all_.size());
    info.peer = peer;
    fail(std::move(info));
  }

  /// The difference in one thing: a minority against the majority, or every value with its ranks where there is no such.
  [[noreturn]] void fail_difference(char const* what, std::vector<shared_value> const& list, std::string const& also) const {
    bool const majority = list[0].ranks.size() > list[1].ranks.size();
    std::string problem;
    if (list.size() == 2 && majority) {
      shared_value const& few = list[1];
      problem = rank_list(few.ranks) + (few.ranks.size() == 1 ? " differs from " : " differ from ") + rank_list(list[0].ranks) +
                " in " + what + ": " + few.value + " against " + list[0].value;
    } else {
      problem = std::string(what) + " is not the same on all ranks: ";
      for (std::size_t v = 0; v < list.size(); ++v)
        problem += (v ? "; " : "") + list[v].value + " on " + rank_list(list[v].ranks);
    }
    auto holds = [&](shared_value const& v) { return !every(v.ranks, [&](int r) { return r != mine_.record().rank(); }); };
    fail_mismatch(problem + also,
                  "Give every rank the same arguments, options and batches, and call the same operations in the same order",
                  list[holds(list[1]) ? 0 : 1].ranks[0]);
  }

  std::span<record const> all_;
  Fingerprint const& mine_;
};

/// Throws rank_mismatch unless all agree. A rank that refused the call itself returns: it has an error of its own to throw.
template <class Fingerprint>
void throw_if_different(std::span<typename Fingerprint::record_type const> all, Fingerprint const& mine) {
  if (mine.record().refused()) return;
  comparison<Fingerprint> const ranks(all, mine);
  ranks.throw_if_refused();
  ranks.throw_if_operations_differ();
  ranks.throw_if_fields_differ();
}

/// Memory of an agreement: records as the host reads them, and as they travel where that is other memory, or work that runs later.
template <class Record, class Queue>
struct agreement_memory {
  static constexpr bool apart = !runs_on_host<Queue>;
  using memory_type = std::conditional_t<apart, typename Queue::memory_type, host_memory>;
  owned<Record, 1> all;                                // (ranks)
  owned<Record, 1, typename Queue::memory_type> there; // (ranks), or empty

  agreement_memory(context<Queue> const& ctx, index_t ranks)
      : all(*ctx.lists, {ranks}), there(*ctx.scratch, {apart ? ranks : 0}) {}
  /// The records that travel.
  view<Record, 1, memory_type> travelling() const {
    if constexpr (apart)
      return there.tensor;
    else
      return all.tensor;
  }
  /// The record of this rank to where records travel.
  void send([[maybe_unused]] Queue const& q) const {
    if constexpr (apart) q.upload(reinterpret_cast<std::byte*>(there.tensor.data), std::as_bytes(std::span(all.tensor.data, 1)));
  }
  /// The first n records back to the host; it waits for the queue.
  void fetch([[maybe_unused]] Queue const& q, [[maybe_unused]] index_t n) const {
    if constexpr (apart) read_now(q, all.tensor.rows(0, n), there.tensor.rows(0, n));
  }
};

/// The records of ranks that are spread over one group or over nested groups (a mesh): gathered one group after the other.
template <class Fingerprint, class Queue>
class agreement {
public:
  using record = typename Fingerprint::record_type;
  agreement(Fingerprint const& mine, index_t ranks, context<Queue> const& ctx) : ctx_(ctx), memory_(ctx, ranks), mine_(mine) {
    require_not_captured(ctx.queue);
    memory_.all.tensor(0) = mine.record();
    memory_.send(ctx_.queue);
  }

  /// After it every rank of `comm` holds what any of them held before.
  template <communicator C>
  void gather(C const& comm, char const* primitive) {
    index_t const n = comm.size(), me = comm.rank();
    if (n == 1) return;
    auto const all = memory_.travelling();
    auto part = [&](index_t r) { return all.narrow(0, r * have_, have_); };
    piece const sent = as_piece(part(me)), held = as_piece(part(0));
    if (me > 0) ctx_.queue.copy({&sent, 1}, {&held, 1});
    parcel_builder receives(*ctx_.lists, n, n);
    for (index_t r = 0; r < n; ++r) {
      receives.open(int(r));
      if (r != me) receives.add(part(r));
    }
    sp::all_gather_v(comm, primitive, {&sent, 1}, receives.parcels(), *ctx_.lists, ctx_.queue).wait();
    have_ *= n;
    memory_.fetch(ctx_.queue, have_);
  }
  /// Where ranks are about to throw, nobody leaves before everybody has all records: the first to end the communicator would
  /// otherwise turn the mismatch into `aborted` for those who still wait for records.
  template <communicator C>
  void barrier_if_different(C const& comm) const {
    if (unanimous()) return;
#if defined(__cpp_exceptions)
    try {
      sp::barrier(comm, ctx_).wait();
    } catch (error const&) { // the mismatch is the cause, whatever has become of the transport
    }
#else
    sp::barrier(comm, ctx_).wait();
#endif
  }
  void throw_if_different() const { detail::throw_if_different(records(), mine_); }

private:
  std::span<record const> records() const { return {memory_.all.tensor.data, std::size_t(have_)}; }
  bool unanimous() const {
    auto const all = records();
    return every(all, [&](record const& r) { return !r.refused() && r.same_call(mine_.record()); });
  }

  context<Queue> const& ctx_;
  agreement_memory<record, Queue> memory_; ///< of the first have_ ranks
  Fingerprint const& mine_;
  index_t have_ = 1;
};

} // namespace detail

/// What ledgers and errors of a transport call the messages of an agreement.
inline constexpr char const* agreement_primitive = "check";

/// Compares everybody's `mine` and returns if they agree; otherwise every rank throws rank_mismatch. Blocking, whatever the queue; one
/// all-gather of sizeof(call_record) bytes per rank, in memory of the queue. A rank whose fingerprint has refused() returns and throws
/// its own error next, the others throw now. Nothing is left half done: after a rank_mismatch of this kind the communicator can be used
/// on.
template <communicator C, class Queue>
void agree(C const& comm, fingerprint const& mine, context<Queue> const& ctx, char const* primitive = agreement_primitive) {
  detail::agreement all(mine, comm.size(), ctx);
  all.gather(comm, primitive);
  all.barrier_if_different(comm);
  all.throw_if_different();
}
/// The same over host memory, on the caller's thread.
template <communicator C>
void agree(C const& comm, fingerprint const& mine, allocator& scratch, char const* primitive = agreement_primitive) {
  sp::agree(comm, mine, context(scratch, scratch), primitive);
}

/// Bytes that an agreement over `ranks` ranks, in one group or in nested ones, takes from the scratch of a context of `q`.
template <queue Q = inline_queue>
[[nodiscard]] index_t agreement_scratch(index_t ranks, Q const& q = {}) {
  return detail::counted_scratch(q, [&](context<Q> const& ctx) {
    detail::agreement_memory<call_record, Q> memory(ctx, ranks);
    parcel_builder receives(*ctx.lists, ranks, ranks);
    owned<parcel, 1> sends(*ctx.lists, {ranks});
  });
}

namespace detail {

/// Runs `local`, the checks of this rank alone, then `compare(fingerprint)`, in which all ranks take part, whatever became of
/// `local`. In programs without exceptions, or whose error handler ends the process, a rank that fails locally takes part in
/// nothing. bad_state while `q` is being captured.
template <class Queue, class Local, class Compare>
void check_together(Queue const& q, fingerprint& f, Local&& local, Compare&& compare) {
  require_not_captured(q);
#if defined(__cpp_exceptions)
  auto compare_refused = [&] {
    try {
      compare(f);
    } catch (...) { // the rank's own failure is the one to report
    }
  };
  try {
    local();
  } catch (error const& e) {
    f.refuse(e.code());
    compare_refused();
    throw;
  } catch (...) {
    f.refuse();
    compare_refused();
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
/// Heads go in one chunk or more.
inline void check_head_chunks(index_t chunks, char const* primitive, int rank, int size) {
  if (chunks < 1)
    fail({errc::invalid_shape, "heads in " + std::to_string(chunks) + " chunks",
          "Give one head chunk or more; more than there are heads are as many as heads", primitive, rank, size});
}
/// An option is one of `count` enumerators from 0 on; `type` is their type's name.
template <class Choice>
void check_choice(Choice choice, int count, char const* what, char const* type, char const* primitive, int rank, int size) {
  if (int(choice) < 0 || int(choice) >= count)
    fail({errc::unsupported, "there is no " + std::string(what) + " number " + std::to_string(int(choice)),
          "Name one of " + std::string(type), primitive, rank, size});
}

} // namespace detail
} // namespace sp
