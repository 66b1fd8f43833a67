// The communicator `sp::local<Queue>`: ranks are threads of this process that share a kind of queue and its memory, and messages are
// copied straight between their buffers. A failure of one rank ends the waits of all within milliseconds; run() joins every thread and
// rethrows the first cause.
#pragma once

#include <sp/collective/threads/group.hpp>
#include <sp/collective/threads/sums.hpp>

namespace sp {

namespace detail {

/// A queue whose work is let at the memory of others by queue.reach(other, rank, other rank): once for each two ranks, from the thread of
/// either, before they communicate.
template <class Queue>
concept reaches_others = requires(Queue const q) {
  q.reach(q, 0, 0);
};

/// The queues of ranks that have come.
template <class Queue>
class met_queues {
public:
  Queue add(int rank, Queue queue) {
    std::lock_guard const lock(mutex_);
    for (auto const& [peer, other] : here_) queue.reach(other, rank, peer);
    here_.emplace_back(rank, queue);
    return queue;
  }

private:
  std::mutex mutex_;
  std::vector<std::pair<int, Queue>> here_;
};
template <class Queue>
  requires(!reaches_others<Queue>)
class met_queues<Queue> {
public:
  Queue add(int, Queue queue) { return queue; }
};

/// Makes each rank a queue that has no arguments.
template <class Queue>
struct queue_of_rank {
  Queue operator()(int) const { return Queue(); }
};

} // namespace detail

/// A rank of a group of threads, each of which has a queue. A const handle that is cheap to copy; a rank uses it from one thread at a
/// time.
///
/// Order: an operation starts after all work that the rank's queue had been given, and runs on the queue's lane. token.wait() orders it
/// before all later work of the queue; it returns as soon as each peer with bytes in that exchange has entered the same exchange, and
/// waits for no work. barrier(), publish(), release() and split() order what any of the queues had been given before what any is given
/// afterwards. Over a queue that is finished on return all this is done when the call returns.
///
/// Progress: the peers need not wait themselves, and neither the order of waits nor other groups matter, because either side may have
/// the bytes copied, on its own lane.
/// Limits: a token is waited for before the 8th exchange after it; at most 4 publications are open at a time (bad_state).
///
/// Errors. short_message: counts differ (both sides); rank_mismatch: operations differ (both sides); timeout: a peer did not come
/// before the deadline; peer_failed: it has returned from its body; aborted: another rank failed first, `info().peer` is its
/// rank in run(); bad_state: misuse by this rank, nothing was sent. Each of these but bad_state ends the family:
/// the communicator and all groups split from the same root refuse every later operation with `aborted`.
template <class Queue>
class local {
  static_assert(
      sp::queue<Queue>,
      "sp::local: the template argument must be a queue: sp::inline_queue, or a copyable handle with memory_type, "
      "finished_on_return, for_each, sums, copy, upload, record, wait, lane and synchronize. Work of a queue of host memory is "
      "finished on return: give work that is done later another memory_type.");
  static_assert(std::copyable<decltype(std::declval<Queue const&>().record())>,
                "sp::local: ranks hand each other events, so the events of its queue must be copyable.");
  static_assert(
      Queue::finished_on_return || std::equality_comparable<Queue>,
      "sp::local: each call compares its queue with that of the rank, so a queue whose work is done later needs operator==: "
      "handles of one queue are equal.");

public:
  using memory_type = typename Queue::memory_type;
  static constexpr bool row_lists = Queue::finished_on_return; ///< work that runs later could find the list gone
  static constexpr bool own_queue = !Queue::finished_on_return;
  class token;
  class publication;

  /// Runs `body(local const&)` on `ranks` new threads and joins them; rank r works on make_queue(r). An exception that leaves a body
  /// ends the family; when
  /// all have returned, the first failure is rethrown, not one of its consequences. So is a token or a publication that was dropped,
  /// even if every body returns normally; any other failure that all bodies handle stays there.
  template <class Body, class MakeQueue = detail::queue_of_rank<Queue>>
  static void run(int ranks, Body&& body, threads_options options = {}, MakeQueue make_queue = {});

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return group_->size(); }
  /// The rank and number of ranks of run(), whatever group this is.
  int world_rank() const { return group_->world(rank_); }
  int world_size() const noexcept { return group_->family().ranks(); }
  /// Where this rank's work runs.
  Queue const& queue() const { return group_->queue(rank_); }
  /// The last operations of this rank, over all its groups.
  flight_recorder const& flight() const { return *group_->family().recorder(world_rank()); }

  /// Pieces and parcels stay alive until wait(); `t.primitive` stays alive as long as the communicator: use a literal.
  [[nodiscard]] token exchange(traffic const& t) const;
  void barrier() const { group_->barrier(rank_, "barrier"); }
  /// Every rank of this group calls split and gets one group; any int is a color. Order within a color: by key, then by rank.
  [[nodiscard]] local split(int color, int key) const {
    auto [group, rank] = group_->split(rank_, color, key);
    return {std::move(group), rank};
  }
  /// Returns when every rank has published; of(r) of the result are rank r's pieces, as its work before wrote them.
  [[nodiscard]] publication publish(char const* primitive, std::span<piece const> mine) const;
  /// v = the sum of everybody's v, as work of the queues, of memory that the fallback of sp::all_reduce() cannot add up. At most 64 ranks.
  template <class T>
    requires(std::is_arithmetic_v<T> && !std::is_same_v<memory_type, host_memory>)
  void all_reduce(view<T, 1, memory_type> v) const { detail::peer_sums<T, local>(*this, "all_reduce").all_reduce(v); }
  /// Rank r ends with the sum of everybody's parts[r] in `mine`, in the same way.
  template <class T>
    requires(std::is_arithmetic_v<T> && !std::is_same_v<memory_type, host_memory>)
  void reduce_scatter(std::span<view<T, 1, memory_type> const> parts, view<T, 1, memory_type> mine) const {
    detail::peer_sums<T, local>(*this, "reduce_scatter").reduce_scatter(parts, mine);
  }
  /// Ends the family; may be called from any thread. Operations of all ranks, this one too, fail with `aborted` from now on.
  void abort(error_info const& why) const { group_->abort(rank_, why); }

private:
  using group_type = detail::thread_group<Queue>;
  /// `group`: see thread_group::for_one_rank.
  local(std::shared_ptr<group_type> group, int rank) noexcept : group_(std::move(group)), rank_(rank) {}

  std::shared_ptr<group_type> group_;
  int rank_;
};

/// An exchange under way. Destroyed unwaited it ends the family, and takes its buffers back before the destructor returns.
template <class Queue>
class local<Queue>::token {
public:
  token(token&& o) noexcept : group_(std::exchange(o.group_, nullptr)), rank_(o.rank_), number_(o.number_) {}
  token& operator=(token&& o) noexcept {
    token(std::move(o)).swap(*this);
    return *this;
  }
  ~token() {
    if (group_) group_->drop(rank_, number_);
  }
  void wait() {
    if (!group_) fail({errc::bad_state, "this token has been waited for already", "Wait once for each exchange"});
    group_->wait(rank_, number_);
    group_.reset();
  }

private:
  friend local;
  token(std::shared_ptr<group_type> group, int rank, std::uint64_t number)
      : group_(std::move(group)), rank_(rank), number_(number) {}
  void swap(token& o) noexcept {
    std::swap(group_, o.group_);
    std::swap(rank_, o.rank_);
    std::swap(number_, o.number_);
  }

  std::shared_ptr<group_type> group_; ///< null once waited for
  int rank_;
  std::uint64_t number_;
};

/// Everybody's published pieces. Destroyed unreleased it ends the family and waits for peers that use it, up to the deadline, which
/// is one for all publications that a rank drops.
/// Publications are released, or destroyed, in the same order on all ranks: in different orders (rank_mismatch in release(), nothing
/// in destructors) ranks wait for each other until the deadline.
template <class Queue>
class local<Queue>::publication {
public:
  publication(publication&& o) noexcept
      : group_(std::exchange(o.group_, nullptr)), primitive_(o.primitive_), rank_(o.rank_), number_(o.number_) {}
  publication& operator=(publication&& o) noexcept {
    publication(std::move(o)).swap(*this);
    return *this;
  }
  ~publication() {
    if (group_) group_->drop_publication(rank_, primitive_, number_, group_->family().end_of_wait());
  }
  /// Valid until release(); `r` is a rank of the group.
  [[nodiscard]] std::span<piece const> of(int r) const { return group_->published(r, number_); }
  /// Returns when every rank has released. Later work of the queue starts behind the last use that any of them has queued.
  void release() {
    if (!group_) fail({errc::bad_state, "this publication has been released already", "Release once for each publish"});
    auto group = std::move(group_);
    group_ = nullptr; // whatever happens now, the group takes care of our buffers
    group->release(rank_, primitive_, number_);
  }

private:
  friend local;
  publication(std::shared_ptr<group_type> group, char const* primitive, int rank, std::uint64_t number)
      : group_(std::move(group)), primitive_(primitive), rank_(rank), number_(number) {}
  void swap(publication& o) noexcept {
    std::swap(group_, o.group_);
    std::swap(primitive_, o.primitive_);
    std::swap(rank_, o.rank_);
    std::swap(number_, o.number_);
  }

  std::shared_ptr<group_type> group_;
  char const* primitive_;
  int rank_;
  std::uint64_t number_;
};

template <class Queue>
typename local<Queue>::token local<Queue>::exchange(traffic const& t) const {
  return {group_, rank_, group_->exchange(rank_, t)};
}

template <class Queue>
typename local<Queue>::publication local<Queue>::publish(char const* primitive, std::span<piece const> mine) const {
  return {group_, primitive, rank_, group_->publish(rank_, primitive, mine)};
}

namespace detail {

/// Runs one body; what leaves it becomes the family's failure. Returns whether it returned normally.
template <class Body>
bool run_rank(thread_family& family, int rank, Body&& body) {
  flight_recorder::record_calls_of_thread(family.recorder(rank));
  bool const good = !run_in_name_of(rank, body, [&](failure f) { family.fail(std::move(f)); });
  family.set_returned(rank);
  return good;
}

} // namespace detail

template <class Queue>
template <class Body, class MakeQueue>
void local<Queue>::run(int ranks, Body&& body, threads_options options, MakeQueue make_queue) {
  if (ranks < 1) fail({errc::bad_state, std::to_string(ranks) + " ranks were asked for", "Run at least one"});
  detail::check_deadline(options.deadline);
  detail::check_spin(options.spin);
  auto family = std::make_shared<detail::thread_family>(ranks, options);
  std::vector<int> members;
  for (int r = 0; r < ranks; ++r) members.push_back(r);
  auto group = std::make_shared<group_type>(family, std::move(members));
  detail::met_queues<Queue> queues;
  std::atomic<bool> good{true};
  struct joiner { // joins whatever was started, also when a thread cannot be started
    detail::thread_family& family;
    int ranks;
    std::vector<std::thread> started{};
    ~joiner() {
      if (int(started.size()) < ranks)
        family.fail_in_destructor(-1, "no thread", [] {
          return detail::failure{.info = {errc::peer_failed, "a thread could not be started"}};
        });
      for (std::thread& t : started) t.join();
    }
  };
  {
    joiner threads_of_run{*family, ranks};
    threads_of_run.started.reserve(std::size_t(ranks));
    for (int r = 0; r < ranks; ++r)
      threads_of_run.started.emplace_back([&, r] {
        auto in_group = [&] {
          group->join(r, queues.add(r, make_queue(r)));
          local const self(group_type::for_one_rank(group), r);
          body(self);
        };
        if (!detail::run_rank(*family, r, in_group)) good = false;
      });
  }
  if (!good || family->unreported()) family->throw_cause();
}

} // namespace sp
