// A queue of host memory made of threads, whoever they are: all that a queue does, cut into tasks.
// Results are those of inline_queue, bit by bit, for any number of threads.
#pragma once

#include <sp/core/workers/shared_tasks.hpp>

namespace sp::detail {

/// Calls body(at[0], ..., x) for x in [begin, end) of the last dimension.
template <std::size_t Rank, class Body, class... Outer>
void for_each_in_row(std::array<index_t, Rank> const& at, index_t begin, index_t end, Body const& body, Outer... outer) {
  if constexpr (sizeof...(Outer) + 1 == Rank)
    for (index_t x = begin; x < end; ++x) body(outer..., x);
  else
    for_each_in_row(at, begin, end, body, outer..., at[sizeof...(Outer)]);
}

/// Calls body(i0, i1, ...) for indices [first, last) of those within the extents, the last dimension fastest.
template <std::size_t Rank, class Body>
void for_each_index_between(std::array<index_t, Rank> const& extents, index_t first, index_t last, Body const& body) {
  if (first >= last) return; // then an extent may be 0
  index_t left = last - first;
  std::array<index_t, Rank> at{};
  for (std::size_t d = Rank; d-- > 0; first /= extents[d]) at[d] = first % extents[d];
  while (left > 0) {
    index_t const begin = at[Rank - 1], end = min(extents[Rank - 1], begin + left);
    for_each_in_row(at, begin, end, body);
    left -= end - begin;
    at[Rank - 1] = 0;
    for (std::size_t d = Rank - 1; d-- > 0;) { // odometer over the rows
      if (++at[d] < extents[d]) break;
      at[d] = 0;
    }
  }
}

/// The base of a task_queue. Threads offers threads() and run(n, call): it calls call(0) ... call(n - 1), each once, at the same time
/// where it can, and returns when all have returned; n <= threads(), call does not throw.
template <class Threads>
class host_queue {
public:
  using memory_type = host_memory;
  static constexpr bool finished_on_return = true;
  struct event {};

  /// See task_queue. Inside a task it keeps to the thread of that task.
  template <class Task>
  void parallel(index_t n, Task const& task) const {
    int const takers = int(min(n, self().threads()));
    if (takers <= 1 || runs_task) return inline_queue{}.parallel(n, task);
    shared_tasks<Task> tasks(n, task);
    self().run(takers, [&tasks](auto thread) { tasks.run(int(thread)); });
    tasks.run(0); // whatever the threads were, all tasks are done
    tasks.finish();
  }

  template <std::size_t Rank, class Body>
  void for_each(std::array<index_t, Rank> const& extents, Body const& body) const {
    index_t n = 1;
    for (index_t e : extents) n *= e;
    in_shares(n, 1, [&](index_t first, index_t last) { for_each_index_between(extents, first, last, body); });
  }
  /// Each sum has one thread, and the order of inline_queue.
  template <class Term, class Store>
  void sums(index_t outputs, index_t terms, Term const& term, Store const& store) const {
    in_shares(outputs, terms, [&](index_t first, index_t last) { sums_in_order(first, last - first, terms, term, store); });
  }
  void copy(std::span<piece const> to, std::span<piece const> from) const {
    constexpr index_t unit = 64; // bytes that cost as much as an element
    index_t const bytes = min(total_bytes(to), total_bytes(from));
    in_shares(round_up(bytes, unit) / unit, 1, [&](index_t first, index_t last) {
      segment_cursor t(to, first * unit), f(from, first * unit);
      copy_segments(t, f, min(last * unit, bytes) - first * unit);
    });
  }
  static void upload(std::byte* to, std::span<std::byte const> bytes) { inline_queue::upload(to, bytes); }

  [[nodiscard]] static constexpr event record() noexcept { return {}; }
  static constexpr void wait(event) noexcept {}
  [[nodiscard]] Threads lane() const { return self(); }
  static constexpr void synchronize() noexcept {}

  /// Steps, each of a nanosecond at most, that another thread is asked for at least. To ask takes a microsecond, and so do as many
  /// elements of a fill or an addition, the quickest passes there are (bench_backend).
  [[nodiscard]] static constexpr index_t smallest_share() noexcept { return 8192; }

private:
  Threads const& self() const { return static_cast<Threads const&>(*this); }

  /// share(first, last) over [0, n), in pieces that are worth a task if one of n costs `steps`.
  template <class Share>
  void in_shares(index_t n, index_t steps, Share const& share) const {
    constexpr index_t shares_per_thread = 4; // so that threads end together although one was late
    index_t const least = max(self().smallest_share() / max(steps, 1), 1);
    index_t const shares = min(n / least, index_t(self().threads()) * shares_per_thread);
    if (shares <= 1) return share(0, n);
    parallel(shares, [&](index_t i) { share(cut(n, i, shares), cut(n, i + 1, shares)); });
  }
};

} // namespace sp::detail
