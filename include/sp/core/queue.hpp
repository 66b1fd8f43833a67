// A queue: where the work of one rank runs, in order. Element-wise passes, sums and copies are handed to it as bodies.
// inline_queue runs them on the caller's thread at once; models for threads and devices have headers of their own.
#pragma once

#include <concepts>
#include <span>

#include <sp/core/piece.hpp>

namespace sp {

namespace detail {
/// Stands for the bodies that for_each() and sums() are given.
struct any_body {
  void operator()(index_t) const;
};
struct any_term {
  double operator()(index_t, index_t) const;
};
struct any_store {
  void operator()(index_t, double) const;
};
/// Stands for the tasks of parallel().
struct any_task {
  void operator()(index_t, int) const;
};
} // namespace detail

/// Work of one rank, in the order in which it is given. A copyable handle; copies are the same queue.
///
/// A call returns when its work is queued. On a queue of host memory that is when it is done: the library reads such memory, and gives it
/// back, without asking a queue. Work that is done later has a memory_type of its own, even where the host could touch that memory.
///
///     memory_type                        of the tensors that its work reads and writes
///     finished_on_return                 static constexpr bool: work is done when the call that gave it returns
///     for_each({n0, n1, ...}, body)      body(i0, i1, ...) once for every index, in any order, possibly at the same time
///     sums(outputs, terms, term, store)  store(i, sum of term(i, t) over t < terms): in an order that depends on `terms` only.
///                                        The type of a sum is the type that term returns
///     copy(to, from)                     the bytes of `from` into `to`, both read end to end
///     upload(to, bytes)                  bytes of the host to the address `to` of its memory; they may change as soon as it returns
///     record() -> event                  a point behind all work given so far
///     wait(event)                        work given from now on starts behind that point, of whichever queue it is
///     lane() -> queue                    the one queue beside it on which its communication runs
///     synchronize()                      returns when everything given so far is done; nothing else waits
///
/// Bodies are trivially copyable structs at namespace scope that hold views and numbers.
///
/// A queue may say more:
///
///     capturing() -> bool                whether what it is given is captured into a graph, so that nobody can wait for it
///     named(object, call) -> scope       while the scope lives, what this thread gives belongs to the call of that name, for profilers
template <class Q>
concept queue = std::copyable<Q> &&
    requires(Q const q, std::span<piece const> pieces, std::byte* bytes, std::span<std::byte const> host_bytes,
             detail::any_body body, detail::any_term term, detail::any_store store) {
  typename Q::memory_type;
  { Q::finished_on_return } -> std::convertible_to<bool>;
  requires(Q::finished_on_return || !std::same_as<typename Q::memory_type, host_memory>);
  q.for_each(std::array<index_t, 1>{}, body);
  q.sums(index_t{}, index_t{}, term, store);
  q.copy(pieces, pieces);
  q.upload(bytes, host_bytes);
  { q.record() } -> std::movable;
  q.wait(q.record());
  q.lane();
  q.synchronize();
};

/// A queue of host memory whose threads take tasks: what a kernel that cuts its own work into tiles asks for.
///
///     parallel(n, task)   task(i), or task(i, thread), once for every i < n; returns when all are done. Tasks begin in the order of i.
///                         0 <= thread < threads(), and no two tasks that run at the same time are told the same: it finds their scratch
///     threads()           how many tasks of one parallel() may run at the same time; does not change
///
/// A task that throws ends the call once all that have begun are through; of several exceptions it throws that of the lowest i.
template <class Q>
concept task_queue = queue<Q> && std::same_as<typename Q::memory_type, host_memory> && Q::finished_on_return &&
    requires(Q const q, detail::any_task task) {
  q.parallel(index_t{}, task);
  { q.threads() } -> std::same_as<int>;
};

namespace detail {

/// task(i, thread), or task(i) where the task does not ask for the thread.
template <class Task>
constexpr void run_task(Task const& task, index_t i, [[maybe_unused]] int thread) {
  if constexpr (std::invocable<Task const&, index_t, int>)
    task(i, thread);
  else
    task(i);
}

/// The last dimension. A function of its own, or the loops around it take the registers that it needs; with a body of its own, which
/// nothing that the body writes can be part of.
template <class Body, class... Outer>
[[gnu::noinline]] constexpr void for_each_along(index_t n, Body const body, Outer... outer) {
  for (index_t i = 0; i < n; ++i) body(outer..., i);
}

/// Calls body(i0, i1, ...) for every index within the extents, the last one fastest.
template <std::size_t Rank, class Body, class... Outer>
constexpr void for_each_index(std::array<index_t, Rank> const& extents, Body const& body, Outer... outer) {
  if constexpr (sizeof...(Outer) + 1 == Rank)
    for_each_along(extents[Rank - 1], body, outer...);
  else
    for (index_t i = 0; i < extents[sizeof...(Outer)]; ++i) for_each_index(extents, body, outer..., i);
}

/// store(i, sum over t < terms of term(i, t)) for `outputs` values of i from `first` on, each added up in the order of t.
template <class Term, class Store>
constexpr void sums_in_order(index_t first, index_t outputs, index_t terms, Term const& term, Store const& store) {
  for (index_t i = first; i < first + outputs; ++i) {
    auto sum = decltype(term(i, index_t{})){};
    for (index_t t = 0; t < terms; ++t) sum = sum + term(i, t);
    store(i, sum);
  }
}

} // namespace detail

/// The caller's own thread: what it is given is done when the call returns.
struct inline_queue {
  using memory_type = host_memory;
  static constexpr bool finished_on_return = true;
  struct event {};

  template <std::size_t Rank, class Body>
  constexpr void for_each(std::array<index_t, Rank> const& extents, Body const& body) const {
    detail::for_each_index(extents, body);
  }
  template <class Term, class Store>
  constexpr void sums(index_t outputs, index_t terms, Term const& term, Store const& store) const {
    detail::sums_in_order(0, outputs, terms, term, store);
  }
  void copy(std::span<piece const> to, std::span<piece const> from) const { sp::copy(to, from); }
  static void upload(std::byte* to, std::span<std::byte const> bytes) {
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
  }
  /// One task after the other.
  template <class Task>
  constexpr void parallel(index_t n, Task const& task) const {
    for (index_t i = 0; i < n; ++i) detail::run_task(task, i, 0);
  }
  /// How many tasks of parallel() may run at once.
  [[nodiscard]] static constexpr int threads() noexcept { return 1; }

  [[nodiscard]] static constexpr event record() noexcept { return {}; }
  static constexpr void wait(event) noexcept {}
  [[nodiscard]] static constexpr inline_queue lane() noexcept { return {}; }
  static constexpr void synchronize() noexcept {}
};

// That it models task_queue is asserted in tests/core/test_elementwise.cpp: asked here, it would cost everybody who includes it.

namespace detail {
/// The host reads what work of this queue wrote; it is done when it was given.
template <class Q>
inline constexpr bool runs_on_host = std::is_same_v<typename Q::memory_type, host_memory>;

/// bad_state while the queue is being captured: for what check levels 2 and 3 do on the host.
template <class Q>
void require_not_captured(Q const& q) {
  if constexpr (requires { q.capturing(); })
    if (q.capturing())
      fail({errc::bad_state,
            "from check level 2 on ranks compare their calls on the host, and this call is being captured into a graph",
            "Capture objects of check level 0 or 1; run the same call once at level 2 or 3 before the capture"});
}

struct [[maybe_unused]] unnamed_work {};
/// What the queue is given while the result lives belongs to this call, in the words of traces.
template <class Q>
auto named_work([[maybe_unused]] Q const& q, [[maybe_unused]] char const* object, [[maybe_unused]] char const* call) {
  if constexpr (requires { q.named(object, call); })
    return q.named(object, call);
  else
    return unnamed_work{};
}
} // namespace detail

} // namespace sp
