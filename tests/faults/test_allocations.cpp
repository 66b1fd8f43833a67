// Fault F6: the n-th allocation of a rank fails, for all n, in communicators and in every attention object.
// The run ends with std::bad_alloc, the other ranks hear of it at once, nothing hangs, and every byte is given back.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <new>
#include <thread>

#include <sp/collective/reductions.hpp>
#include <sp/threads.hpp>

#include "faults/step.hpp"

namespace {
thread_local long countdown = -1; ///< the allocation of this thread that fails: 0 is the next one, negative means none
std::atomic<long> living{0};      ///< allocations not given back

[[gnu::noinline]] void* failing_new(std::size_t n, std::size_t alignment) {
  if (countdown >= 0 && countdown-- == 0) throw std::bad_alloc();
  void* p = alignment ? std::aligned_alloc(alignment, (n + alignment - 1) / alignment * alignment) : std::malloc(n ? n : 1);
  if (!p) throw std::bad_alloc();
  ++living;
  return p;
}
[[gnu::noinline]] void give_back(void* p) noexcept {
  if (p) --living;
  std::free(p);
}
} // namespace

[[gnu::noinline]] void* operator new(std::size_t n) { return failing_new(n, 0); }
[[gnu::noinline]] void* operator new[](std::size_t n) { return failing_new(n, 0); }
[[gnu::noinline]] void* operator new(std::size_t n, std::align_val_t a) { return failing_new(n, std::size_t(a)); }
[[gnu::noinline]] void* operator new[](std::size_t n, std::align_val_t a) { return failing_new(n, std::size_t(a)); }
[[gnu::noinline]] void operator delete(void* p) noexcept { give_back(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { give_back(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { give_back(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t) noexcept { give_back(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { give_back(p); }
[[gnu::noinline]] void operator delete[](void* p, std::align_val_t) noexcept { give_back(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { give_back(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { give_back(p); }

namespace faults::test_allocations {
namespace {

constexpr int ranks = 4;

/// Lets the n-th allocation of rank `victim` in `body` fail, for n = 0, 1, ... until there is none; returns how many failures there were.
template <class Body>
long fail_every_allocation(int victim, Body&& body) {
  using clock = std::chrono::steady_clock;
  long failures = 0;
  for (long n = -1;; ++n) { // first a run in which nothing fails, so that what is made once and kept is there
    long const before = living;
    auto const begin = clock::now();
    std::atomic<int> aborted = 0;
    bool failed = false, used = false;
    try {
      sp::threads::run(ranks,
                       [&](sp::threads const& comm) {
                         struct arm {
                           bool& used;
                           bool mine;
                           arm(bool& u, bool m, long n) : used(u), mine(m) { countdown = m ? n : -1; }
                           ~arm() {
                             if (mine) used = countdown < 0;
                             countdown = -1;
                           }
                         };
                         try {
                           {
                             arm const here(used, comm.rank() == victim, n);
                             body(comm);
                           }
                           comm.barrier(); // who is done waits for the others
                         } catch (sp::error const& e) {
                           aborted += e.code() == sp::errc::aborted;
                           throw;
                         }
                       },
                       {.deadline = std::chrono::seconds(20)});
    } catch (std::bad_alloc const&) {
      failed = true;
    }
    INFO("rank " << victim << ", allocation " << n);
    if (n >= 0) CHECK(living == before);
    CHECK(clock::now() - begin < std::chrono::seconds(5));
    CHECK(aborted == (failed ? ranks - 1 : 0));
    if (n < 0) {
      CHECK(!failed);
      continue;
    }
    if (!used) return failures;
    failures += failed; // std::stable_sort does without its buffer
    REQUIRE(n < 5000);
  }
}

} // namespace

TEST_CASE("F6: the n-th allocation of a rank fails in an attention object") {
  for (object o : objects)
    for (int victim : {0, 3}) {
      long const n = fail_every_allocation(victim, [&](sp::threads const& comm) { step(comm, o); });
      INFO(name(o));
      CHECK(n > 30);
    }
}

TEST_CASE("F6: the n-th allocation of a rank fails in a communicator") {
  for (int victim : {0, 1}) {
    long const n = fail_every_allocation(victim, [](sp::threads const& comm) {
      auto half = comm.split(comm.rank() % 2, -comm.rank());
      sp::pool scratch;
      std::vector<double> values(600, 1.0), few(4, 2.0);
      sp::all_reduce(comm, sp::view<double, 1>(values.data(), {600}), scratch);
      sp::all_reduce(half, sp::view<double, 1>(few.data(), {4}), scratch);
      sp::piece const mine = sp::as_piece(sp::view<double, 1>(few.data(), {4}));
      auto shown = comm.publish("show", {&mine, 1});
      shown.release();
      sp::broadcast(half, {&mine, 1}, 0);
      half.barrier();
    });
    CHECK(n > 10);
  }
}

namespace {

/// The n-th allocation of rank 1 fails in `operation`, and rank 1 catches that and comes back late: what the others are told.
struct caught_failure {
  bool caught = false, made = false;
  std::atomic<int> aborted = 0, others = 0; ///< ranks that threw, by code
  double seconds = 0;
};
template <class Operation>
void catch_allocation(long n, Operation&& operation, caught_failure& seen) {
  auto const begin = std::chrono::steady_clock::now();
  auto body = [&](sp::threads const& comm) {
    comm.barrier();
    if (comm.rank() == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2)); // the others have come
      countdown = n;
      try {
        operation(comm);
      } catch (std::bad_alloc const&) {
        seen.caught = true;
      }
      seen.made = countdown < 0;
      countdown = -1;
      if (seen.caught) std::this_thread::sleep_for(std::chrono::milliseconds(40));
    } else {
      operation(comm);
    }
    comm.barrier();
  };
  try {
    sp::threads::run(3,
                     [&](sp::threads const& comm) {
                       try {
                         body(comm);
                       } catch (sp::error const& e) {
                         ++(e.code() == sp::errc::aborted ? seen.aborted : seen.others);
                         throw;
                       }
                     },
                     {.deadline = std::chrono::seconds(6)});
  } catch (sp::error const&) {
  }
  seen.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

} // namespace

TEST_CASE("F6: who catches the bad_alloc of a split has ended the family") {
  auto split = [](sp::threads const& comm) { static_cast<void>(comm.split(0, -comm.rank())); }; // rank 2 makes the group
  auto split_by_1 = [](sp::threads const& comm) { static_cast<void>(comm.split(0, comm.rank() != 1)); };
  int failures = 0;
  auto try_all = [&](auto&& operation) {
    for (long n = 0;; ++n) {
      caught_failure seen;
      catch_allocation(n, operation, seen);
      INFO("allocation " << n);
      CHECK(int(seen.aborted) == (seen.caught ? 3 : 0));
      CHECK(int(seen.others) == 0);
      CHECK(seen.seconds < 3); // long before the deadline
      failures += seen.caught;
      if (!seen.made) return;
      REQUIRE(n < 100);
    }
  };
  try_all(split);
  try_all(split_by_1);
  CHECK(failures >= 5);
}

} // namespace faults::test_allocations
