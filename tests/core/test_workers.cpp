// Queues on threads: every task once and in order, results of one thread, one exception for all, ranks that share, threads that die.
// Whoever has the threads: workers of their own, or pools of the caller's.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sp/workers.hpp>

#include "support/failure.hpp"
#include "support/tensors.hpp"

namespace test_workers {
namespace {

using sp::errc;
using sp::index_t;
using support::failure_of;
using support::says;

/// A pool of the caller's: a new thread for every call, so that all calls of one parallel() do run at the same time.
struct one_thread_each {
  int count;
  int threads() const { return count; }
  template <class Call>
  void parallel(index_t n, Call call) {
    std::vector<std::thread> all;
    for (index_t i = 0; i < n; ++i) all.emplace_back([=] { call(i); });
    for (std::thread& t : all) t.join();
  }
};

/// A pool that runs the calls one after the other, the last one first.
struct backwards {
  int threads() const { return 3; } // NOLINT(readability-convert-member-functions-to-static): as a pool has it
  template <class Call>
  void parallel(index_t n, Call const& call) const {
    while (n-- > 0) call(n);
  }
};

/// What happened to the tasks of a parallel() call.
struct log_of_tasks {
  std::vector<std::atomic<int>> times;
  std::atomic<index_t> begun{0};
  std::atomic<int> at_once[8]{}, broken{0}, out_of_order{0};
  explicit log_of_tasks(index_t n) : times(std::size_t(n)) {}

  void task(index_t i, int thread, int threads) {
    if (thread < 0 || thread >= threads || at_once[thread].fetch_add(1) != 0) ++broken;
    if (begun.fetch_add(1) < i - (threads - 1)) ++out_of_order; // the others have taken one each that has not begun
    ++times[std::size_t(i)];
    --at_once[thread];
  }
  bool each_once() const {
    for (auto const& t : times)
      if (t != 1) return false;
    return true;
  }
};

template <class Queue>
void check_tasks(Queue const& queue) {
  CAPTURE(queue.threads());
  for (index_t n : {0, 1, 2, 3, 200}) {
    CAPTURE(n);
    log_of_tasks log(n);
    queue.parallel(n, [&](index_t i, int thread) { log.task(i, thread, queue.threads()); });
    CHECK(log.each_once());
    CHECK(log.broken == 0);
    CHECK(log.out_of_order == 0);
  }
}

/// Returns when the other side has come, false if it does not within seconds.
bool meet(std::atomic<int>& here, int everybody) {
  ++here;
  for (auto const end = std::chrono::steady_clock::now() + std::chrono::seconds(5); here < everybody;) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

} // namespace

TEST_CASE("workers: each task once, in order, with a scratch of its own [tsan]") {
  check_tasks(sp::inline_queue{});
  for (int threads : {1, 2, 3, 5}) {
    sp::workers const own{threads, {.spin = threads % 2 * 100}};
    CHECK(own.threads() == threads);
    for (int again = 0; again < 3; ++again) check_tasks(own);
  }
  one_thread_each pool{3};
  check_tasks(sp::workers_ref{pool});
  backwards const other;
  check_tasks(sp::workers_ref{other});
}

TEST_CASE("workers: threads that have fallen asleep come, and so do those of a pool [tsan]") {
  auto check = [](auto const& queue) {
    std::atomic<int> here{0}, met{0};
    queue.parallel(2, [&](index_t) { met += meet(here, 2); });
    CHECK(met == 2);
  };
  sp::workers const queue{2, {.spin = 0}};
  for (int again = 0; again < 3; ++again) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    check(queue);
  }
  one_thread_each pool{2};
  check(sp::workers_ref{pool});
}

TEST_CASE("workers: the exception of the lowest task, when all have stopped [tsan]") {
  auto check = [](auto const& queue) {
    std::atomic<int> here{0}, running{0}, later{0};
    int caught = -1;
    try {
      queue.parallel(1000, [&](index_t i) {
        ++running;
        if (i < 2) meet(here, 2);                                               // both have begun
        if (i == 0) std::this_thread::sleep_for(std::chrono::milliseconds(30)); // task 1 is the first to throw
        if (i > 500) ++later;
        --running;
        throw int(i);
      });
    } catch (int i) {
      caught = i;
    }
    CHECK(caught == 0);
    CHECK(running == 0);
    CHECK(later == 0);
    check_tasks(queue); // nothing is left of it
  };
  one_thread_each pool{2};
  check(sp::workers_ref{pool});
  check(sp::workers{2});
  CHECK_THROWS_AS(sp::workers{1}.parallel(3, [](index_t i) { throw int(i); }), int);
}

TEST_CASE("workers: an error of a task names the call and the rank [tsan]") {
  one_thread_each pool{2};
  std::atomic<int> here{0};
  sp::error_info const e = failure_of([&] {
    return sp::located({"ring_attention", ".forward", 3, 4}, [&] {
      sp::workers_ref{pool}.parallel(2, [&](index_t) {
        meet(here, 2);
        sp::fail({errc::invalid_shape, "no slope", "Give one"});
      });
      return 0;
    });
  });
  CHECK(e.primitive == "ring_attention.forward");
  CHECK(e.rank == 3);
}

TEST_CASE("workers: tasks round as their caller does") {
  one_thread_each pool{2};
  sp::workers const own{2};
  volatile float const one = 1, three = 3;
  auto check = [&](auto const& queue) {
    std::fesetround(FE_DOWNWARD);
    float const mine = one / three;
    float theirs[2]{};
    std::atomic<int> here{0};
    queue.parallel(2, [&](index_t i) {
      meet(here, 2);
      theirs[i] = one / three;
    });
    std::fesetround(FE_TONEAREST);
    CHECK(theirs[0] == mine);
    CHECK(theirs[1] == mine);
    CHECK(one / three != mine);
  };
  check(sp::workers_ref{pool});
  check(own);
}

TEST_CASE("workers: parallel() in a task keeps to its thread [tsan]") {
  one_thread_each pool{2};
  sp::workers const own{3};
  auto check = [](auto const& outer, auto const& inner) {
    std::atomic<int> elsewhere{0}, done{0};
    outer.parallel(4, [&](index_t) {
      auto const me = std::this_thread::get_id();
      inner.parallel(50, [&](index_t, int thread) {
        elsewhere += thread != 0 || std::this_thread::get_id() != me;
        ++done;
      });
    });
    CHECK(elsewhere == 0);
    CHECK(done == 200);
  };
  check(own, own);
  check(sp::workers_ref{pool}, own);
  check(own, sp::workers_ref{pool});
  check_tasks(own); // outside of tasks it is shared again
}

TEST_CASE("workers: threads end with the last handle, busy or asleep [tsan]") {
  for (int again = 0; again < 20; ++again) {
    sp::workers kept{1};
    {
      sp::workers const first{3, {.spin = again % 3 * 50}};
      if (again % 2 == 0) check_tasks(first);
      kept = first;
    }
    if (again % 5 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    check_tasks(kept);
    sp::workers const moved = std::move(kept);
    CHECK(moved.threads() == 3);
  }
}

TEST_CASE("workers: ranks share one set of threads, and no more run than there are [tsan]") {
  constexpr int ranks = 3, threads = 5, calls = 40;
  sp::workers const shared{threads, {.ranks = ranks}};
  CHECK(shared.threads() == 2); // one of its own, and a share of two others, rounded up
  CHECK(sp::workers{8, {.ranks = 2}}.threads() == 4);
  CHECK(sp::workers{2, {.ranks = 4}}.threads() == 1);
  CHECK(sp::workers{sp::workers::all_cores, {.ranks = sp::workers::cores()}}.threads() == 1);
  CHECK(sp::workers{}.threads() == sp::workers::cores());

  std::atomic<int> running{0}, most{0}, here{0};
  std::vector<index_t> sums(ranks + 1);
  std::vector<std::thread> all;
  for (int r = 0; r <= ranks; ++r) // and one that nobody announced
    all.emplace_back([&, r, queue = shared] {
      meet(here, ranks + 1);
      for (int c = 0; c < calls; ++c) {
        std::atomic<index_t> sum{0};
        queue.parallel(20, [&](index_t i) {
          int const now = ++running;
          for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
          }
          sum += i;
          --running;
        });
        sums[std::size_t(r)] += sum;
      }
    });
  for (std::thread& t : all) t.join();
  for (index_t s : sums) CHECK(s == calls * 190);
  CHECK(most <= threads + 1);
}

TEST_CASE("workers: a child of fork() has no threads but its own, and nothing hangs") {
  for (int spin : {0, 100000}) {
    auto queue = std::make_unique<sp::workers>(3, sp::workers_options{.spin = spin});
    check_tasks(*queue);
    pid_t const child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::alarm(5);
      int sum = 0;
      for (int again = 0; again < 3; ++again) queue->parallel(50, [&](index_t) { ++sum; }); // one thread: no race
      queue.reset();
      ::_exit(sum == 150 ? 0 : 1);
    }
    int status = -1;
    CHECK(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    check_tasks(*queue);
  }
}

TEST_CASE("workers: numbers that make no sense, and threads that the system does not give") {
  CHECK(says(failure_of([] { return sp::workers{-1}; }), errc::bad_state, "-1 threads"));
  CHECK(says(failure_of([] { return sp::workers{100000}; }), errc::bad_state, "100000 threads"));
  CHECK(says(failure_of([] { return sp::workers(2, {.ranks = 0}); }), errc::bad_state, "0 ranks"));
  CHECK(says(failure_of([] { return sp::workers(2, {.spin = -1}); }), errc::bad_state, "-1 polls"));
  CHECK(says(failure_of([] { return sp::workers(2, {.smallest_share = 0}); }), errc::bad_state, "shares of 0"));
  one_thread_each none{0};
  CHECK(says(failure_of([&] { return sp::workers_ref{none}; }), errc::bad_state, "0 threads"));

  pid_t const child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::alarm(5);
    rlimit const little{rlim_t{1} << 30, rlim_t{1} << 30}; // of addresses: room for a hundred stacks or so
    bool refused = false;
    if (::setrlimit(RLIMIT_AS, &little) == 0) try {
        sp::workers const many{2000};
      } catch (sp::error const& e) {
        refused = e.code() == errc::peer_failed && e.info().problem.find("of 1999 threads") != std::string::npos;
      }
    ::_exit(refused ? 0 : 1);
  }
  int status = -1;
  CHECK(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

namespace {

/// Marks where it has been, and how often.
struct mark {
  sp::view<unsigned char, 3> seen;
  void operator()(index_t i, index_t j, index_t k) const { ++seen(i, j, k); }
};
struct product {
  sp::view<float const, 2> x;
  float operator()(index_t i, index_t t) const { return x(i, t) * x(i, t); }
};
struct keep {
  sp::view<float, 1> sums;
  void operator()(index_t i, float sum) const { sums(i) = sum; }
};

/// Two lists of strided blocks over memory of their own, with as many bytes.
struct block_lists {
  std::vector<double> from_memory, to_memory;
  std::vector<sp::piece> from, to;
  std::vector<sp::row_range> odd_and_even;
  explicit block_lists(unsigned seed) {
    std::mt19937 g(seed);
    index_t const rows = 300 + index_t(g() % 100), heads = 3, dim = 64 + index_t(g() % 300);
    from_memory.resize(std::size_t(rows * (heads + 1) * (dim + 3)));
    to_memory.assign(std::size_t(rows * heads * dim), 0);
    for (double& x : from_memory) x = double(g());
    sp::view<double, 3> const all(from_memory.data(), {rows, heads + 1, dim + 3});
    index_t const cut = index_t(g() % 300), rest = rows - cut;
    auto const columns = all.narrow(1, 0, heads).narrow(2, 0, dim);
    for (auto const& part : {columns.rows(0, cut), columns.rows(cut, 0), columns}) from.push_back(sp::as_piece(part));
    odd_and_even = {{cut, 2, (rest + 1) / 2}, {0, 1, 0}, {cut + 1, 2, rest / 2}};
    from.back().rows = odd_and_even;
    from.back().extents[0] = rest;
    sp::view<double, 2> const dense(to_memory.data(), {rows * heads, dim});
    to = {sp::as_piece(dense.rows(0, 17)), sp::as_piece(dense.rows(17, rows * heads - 17))};
  }
};

template <class Queue>
void check_passes(Queue const& queue) {
  std::vector<std::array<index_t, 3>> const shapes{{0, 5, 7}, {3, 0, 2}, {1, 1, 1}, {41, 1, 1009}, {70000, 1, 1}, {7, 1000, 5}};
  for (auto const& extents : shapes) {
    std::vector<unsigned char> seen(std::size_t(extents[0] * extents[1] * extents[2]));
    queue.for_each(extents, mark{{seen.data(), extents}});
    CHECK(std::count(seen.begin(), seen.end(), 1) == std::ptrdiff_t(seen.size()));
  }
  std::mt19937 g(1);
  std::normal_distribution<float> normal;
  std::vector<std::array<index_t, 2>> const matrices{{100, 1000}, {3, 20000}, {40000, 1}, {5, 0}};
  for (auto const& extents : matrices) {
    std::vector<float> x(static_cast<std::size_t>(extents[0] * extents[1]));
    std::vector<float> mine(static_cast<std::size_t>(extents[0]), -1), one = mine;
    for (float& e : x) e = normal(g);
    sp::view<float, 2> const in(x.data(), extents);
    queue.sums(extents[0], extents[1], product{in}, keep{{mine.data(), extents[0]}});
    sp::inline_queue{}.sums(extents[0], extents[1], product{in}, keep{{one.data(), extents[0]}});
    CHECK(support::same_bits(mine, one));
  }
  for (unsigned seed = 1; seed <= 2; ++seed) {
    block_lists mine(seed), one(seed);
    queue.copy(mine.to, mine.from);
    sp::copy(one.to, one.from);
    CHECK(support::same_bits(mine.to_memory, one.to_memory));
  }
}

} // namespace

TEST_CASE("workers: passes, sums and copies are those of one thread [asan]") {
  check_passes(sp::inline_queue{});
  check_passes(sp::workers{3});
  check_passes(sp::workers{3, {.smallest_share = 1}});
  one_thread_each pool{4};
  check_passes(sp::workers_ref{pool});
}

} // namespace test_workers
