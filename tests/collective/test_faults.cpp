// The threads communicator when something goes wrong: every rank soon learns who failed and why, and nobody touches dead buffers.
// Times are measured by the ranks themselves; on a busy machine the best of three attempts counts.
// waits: for deadlines
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <thread>

#include <sp/collective/decorators/chaos.hpp>
#include <sp/threads.hpp>

#include "collective/cases.hpp"
#include "support/failure.hpp"

namespace test_faults {

using namespace collective_tests;
using namespace std::chrono_literals;
using support::failure_of;
using support::says;

namespace {

using timer = std::chrono::steady_clock;

constexpr sp::threads_options patient{.deadline = 30s};
#ifdef SP_TEST_SANITIZED
constexpr auto prompt = 1000ms;
#else
constexpr auto prompt = 100ms;
#endif

bool has(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

/// The error that leaves run().
template <class Body>
sp::error_info run_failure(int size, Body&& body, sp::threads_options options = patient) {
  return failure_of([&] { sp::threads::run(size, body, options); });
}

/// How long an attempt took, and what it found wrong. It asserts nothing itself: one that was too slow does not count.
struct attempted {
  timer::duration took{0};
  std::string wrong{};
  void expect(bool holds, char const* what) {
    if (!holds) wrong += std::string(wrong.empty() ? "" : "; ") + "not so: " + what;
  }
};
/// What was wrong with something that a busy machine may slow down, or that it was too slow in each of three attempts.
template <class F>
std::string within(timer::duration limit, F&& attempt) {
  for (int i = 0; i < 3; ++i)
    if (attempted const a = attempt(); a.took <= limit) return a.wrong;
  return "three attempts took longer than " +
         std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(limit).count()) + " ms";
}

struct instant {
  std::atomic<timer::rep> ticks{0};
  void now() { ticks = timer::now().time_since_epoch().count(); }
  timer::time_point get() const { return timer::time_point(timer::duration(ticks.load())); }
};

/// One round of everything that can block.
void step(sp::threads const& c, sp::threads const& half, int k) {
  ring_step a(c.rank(), c.size(), k);
  auto t = c.exchange(a.traffic());
  ring_step b(half.rank(), half.size(), k);
  half.exchange(b.traffic()).wait();
  t.wait();
  auto shown = c.publish("show", {&a.in_piece, 1});
  shown.release();
  c.barrier();
}

/// Rank r throws at step k: how long until the last rank has left, and whether everybody saw why.
attempted throw_at(int size, int r, int k) {
  instant thrown;
  std::vector<instant> left((std::size_t(size)));
  std::vector<sp::error_info> seen((std::size_t(size)));
  std::string const text = "rank " + std::to_string(r) + " fell over at step " + std::to_string(k);
  bool original = false;
  try {
    sp::threads::run(
        size,
        [&](sp::threads const& c) {
          auto half = c.split(c.rank() % 2, 0);
          for (int i = 0; i < 5; ++i) {
            if (c.rank() == r && i == k) {
              thrown.now();
              throw std::runtime_error(text);
            }
            try {
              step(c, half, i);
            } catch (sp::error const& e) {
              left[std::size_t(c.rank())].now();
              seen[std::size_t(c.rank())] = e.info();
              throw;
            }
          }
        },
        patient);
  } catch (std::runtime_error const& e) {
    original = e.what() == text;
  }
  attempted a;
  a.expect(original, "run() throws the original");
  for (int p = 0; p < size; ++p) {
    if (p == r) continue;
    sp::error_info const& e = seen[std::size_t(p)];
    a.expect(e.code == sp::errc::aborted && e.peer == r && has(e.problem, text), "every other rank is told who fell over");
    a.took = std::max(a.took, left[std::size_t(p)].get() - thrown.get());
  }
  return a;
}

} // namespace

TEST_CASE("faults F1: a throw in any rank at any step ends all ranks at once, and is what run() rethrows [tsan][asan]") {
  for (int size : {2, 3, 5, 8})
    for (int r = 0; r < size; ++r)
      for (int k = 0; k < 3; ++k)
        CHECK_MESSAGE(within(prompt, [&] { return throw_at(size, r, k); }) == "",
                      "rank " << r << " of " << size << ", step " << k);
}

namespace {

using operation = std::function<void(sp::threads const&)>;

/// Rank 1 comes to an operation only when all others have given it up: how long the last of these waited.
attempted never_arrives(std::string const& name, operation const& body, int size, std::chrono::milliseconds deadline) {
  std::atomic<int> waiting = size - 1, late = 0, odd = 0;
  std::atomic<timer::rep> longest = 0;
  auto const others = [&](sp::threads const& c) {
    auto const begin = timer::now();
    try {
      body(c);
    } catch (sp::error const& error) {
      auto const took = (timer::now() - begin).count();
      bool const timed_out = error.code() == sp::errc::timeout;
      late += timed_out;
      odd += timed_out ? timer::duration(took) < deadline : error.code() != sp::errc::aborted;
      if (took > longest) longest = took;
      --waiting;
      throw;
    }
    --waiting;
  };
  sp::error_info const e = run_failure(size,
                                       [&](sp::threads const& c) {
                                         if (c.rank() != 1) return others(c);
                                         while (waiting > 0) std::this_thread::sleep_for(1ms);
                                         odd += failure_of([&] { body(c); }).code != sp::errc::aborted;
                                       },
                                       {.deadline = deadline});
  attempted a{.took = timer::duration(longest.load())};
  a.expect(late == 1, "one rank is the first; for the others its failure is the cause");
  a.expect(odd == 0, "nobody gives up before the deadline, and only the first says timeout");
  a.expect(says(e, sp::errc::timeout, "1000 ms"), "the deadline is named");
  a.expect(e.peer >= 0, "a peer is named");
  a.expect(e.peer == 1 || (size > 2 && name == "ring"), "it is rank 1"); // in a ring of three, its neighbour may be late first
  a.expect(e.primitive == name, "the operation is named");
  return a;
}

} // namespace

TEST_CASE("faults F2: a rank that never arrives is named at the deadline [tsan]") {
  std::vector<std::pair<std::string, operation>> const operations{
      {"ring",
       [](sp::threads const& c) {
         ring_step s(c.rank(), c.size(), 1);
         c.exchange(s.traffic()).wait();
       }},
      {"barrier", [](sp::threads const& c) { c.barrier(); }},
      {"show", [](sp::threads const& c) { c.publish("show", {}).release(); }},
  };
  constexpr auto deadline = 1000ms;
  for (auto const& [name, body] : operations)
    for (int size : {2, 3}) {
      auto attempt = [&, &name = name, &body = body] { return never_arrives(name, body, size, deadline); };
      CHECK_MESSAGE(within(deadline + deadline / 10, attempt) == "", name << " of " << size);
    }
}

TEST_CASE("faults F4: seeded delays change no bit [tsan][asan]") {
  std::vector<float> expected;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    std::vector<float> result;
    sp::threads::run(
        4,
        [&](sp::threads const& c) {
          auto mine = under_delays(c, seed, std::chrono::microseconds(seed == 0 ? 0 : 300), 300);
          if (c.rank() == 0) result = std::move(mine);
        },
        patient);
    if (expected.empty()) expected = result;
    CHECK(std::memcmp(expected.data(), result.data(), result.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("faults F5: an abort from outside at any time ends everybody with its reason [tsan][asan]") {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> told = 0;
    sp::error_info const e = run_failure(3, [&](sp::threads const& c) {
      std::optional<std::thread> outside;
      if (c.rank() == 0)
        outside.emplace([c, round] {
          std::this_thread::sleep_for(std::chrono::microseconds(200 * round));
          c.abort({sp::errc::backend_error, "the power went", "Buy a battery"});
        });
      try {
        auto half = c.split(c.rank() % 2, 0);
        for (int k = 0;; ++k) step(c, half, k);
      } catch (sp::error const& error) {
        told += error.code() == sp::errc::aborted && has(error.what(), "the power went");
        if (outside) outside->join();
        throw;
      }
    });
    CHECK(says(e, sp::errc::backend_error, "the power went"));
    CHECK(told.load() == 3);
  }
}

TEST_CASE("faults: counts that differ are told to both sides with both numbers [tsan][asan]") {
  for (int sent : {0, 3, 8, 30000})
    for (int expected : {0, 5, 40000}) {
      std::atomic<int> told = 0, aborted = 0;
      auto const e = run_failure(3, [&](sp::threads const& c) {
        std::vector<int> out(std::size_t(sent), 1), in(std::size_t(expected), 1);
        piece const a = sp::as_piece(all(out)), b = sp::as_piece(all(in));
        parcel const to{1, {&a, 1}}, from{0, {&b, 1}};
        try {
          if (c.rank() == 0) c.exchange({"x", {&to, 1}, {}}).wait();
          if (c.rank() == 1) c.exchange({"x", {}, {&from, 1}}).wait();
          if (c.rank() == 2) c.exchange({"x", {}, {}}).wait();
          if (sent == 0 && expected == 0) throw std::logic_error("nothing was wrong");
          // where one side says nothing, its next call shows it
          ring_step s(c.rank(), 3, 1);
          c.exchange(s.traffic("x")).wait();
          c.barrier();
        } catch (sp::error const& error) {
          std::string const numbers =
              "rank 0 sends " + std::to_string(4 * sent) + " bytes, rank 1 expects " + std::to_string(4 * expected);
          if (error.code() == sp::errc::short_message) {
            told += error.info().rank == c.rank() && error.info().peer == 1 - c.rank() &&
                    has(error.what(), sent && expected ? numbers : "sends");
          }
          aborted += error.code() == sp::errc::aborted;
          CHECK(failure_of([&] { c.barrier(); }).code == sp::errc::aborted);
          throw;
        } catch (std::logic_error const&) {
          CHECK((sent == 0 && expected == 0));
          sp::fail({sp::errc::bad_state, "expected", "none"});
        }
      });
      if (sent == 0 && expected == 0) {
        CHECK(e.code == sp::errc::bad_state);
      } else {
        CHECK(e.code == sp::errc::short_message);
        CHECK(told.load() == 2);
        CHECK(aborted == 1);
      }
    }
}

TEST_CASE("faults: a peer that went on without sending, or without receiving, is found before the deadline [tsan]") {
  for (bool receiver_waits : {true, false}) {
    auto const e = run_failure(2, [&](sp::threads const& c) {
      std::vector<int> data(9000, 1);
      piece const p = sp::as_piece(all(data));
      parcel const peer{1 - c.rank(), {&p, 1}};
      if (c.rank() == 0)
        c.exchange({"x", receiver_waits ? std::span<parcel const>() : std::span(&peer, 1),
                    receiver_waits ? std::span(&peer, 1) : std::span<parcel const>()})
            .wait();
      else
        c.exchange({"x", {}, {}}).wait(); // has nothing for rank 0, wants nothing of it
      c.barrier();
    });
    CHECK(says(e, sp::errc::short_message, "36000", receiver_waits ? "rank 1 sends 0 bytes" : "rank 1 expects 0"));
  }
}

TEST_CASE("faults: different primitives at one time are told apart [tsan]") {
  auto const e = run_failure(2, [](sp::threads const& c) {
    ring_step s(c.rank(), 2, 1);
    c.exchange(s.traffic(c.rank() == 0 ? "forward" : "backward")).wait();
  });
  CHECK(says(e, sp::errc::rank_mismatch, "forward", "backward"));
}

TEST_CASE(
    "faults: operations at one time must be the same, and a publication shows only what its own publish showed [tsan][asan]") {
  operation const barrier = [](sp::threads const& c) { c.barrier(); };
  auto publish = [](char const* name) -> operation {
    return [name](sp::threads const& c) {
      int value = c.rank();
      piece const mine = sp::as_piece(sp::view<int, 1>(&value, {1}));
      auto e = c.publish(name, {&mine, 1});
      FAIL_CHECK("publish saw " << e.of(1 - c.rank()).size() << " pieces");
    };
  };
  operation const split = [](sp::threads const& c) { static_cast<void>(c.split(0, 0)); };
  operation const release = [](sp::threads const& c) { c.publish("show", {}).release(); };
  operation const publish_twice = [](sp::threads const& c) {
    auto first = c.publish("show", {}), second = c.publish("show", {});
  };
  operation const release_other = [](sp::threads const& c) {
    auto first = c.publish("show", {}), second = c.publish("show", {});
    c.rank() == 0 ? first.release() : second.release();
  };
  struct operations {
    operation a, b;
    std::string one, two;
  };
  std::vector<operations> const pairs{
      {publish("show"), barrier, "in show (publish 0)", "in barrier"},
      {publish("forward"), publish("backward"), "in forward (publish 0)", "in backward (publish 0)"},
      {split, barrier, "in split", "in barrier"},
      {split, publish("split"), "in split", "in split (publish 0)"},
      {release, publish_twice, "in show (release of publish 0)", "in show (publish 1)"},
      {release_other, release_other, "in show (release of publish 0)", "in show (release of publish 1)"},
  };
  for (auto const& m : pairs) {
    std::atomic<int> told = 0;
    auto const e = run_failure(2,
                               [&](sp::threads const& c) {
                                 try {
                                   for (int k = 0; k < 4; ++k) { // spans of publications that are gone
                                     auto old = std::make_unique<piece>();
                                     c.publish("old", {old.get(), 1}).release();
                                   }
                                   auto [row, rank] = std::pair(c.split(0, 0), c.rank());
                                   rank == 0 ? m.a(row) : m.b(row);
                                 } catch (sp::error const& error) {
                                   told += error.code() == sp::errc::rank_mismatch && error.info().rank == c.rank() &&
                                           error.info().peer == 1 - c.rank();
                                   throw;
                                 }
                               },
                               {.deadline = 1s}); // the last pair waits for it: each rank still shows what the other has released
    INFO(m.one << " against " << m.two << ": " << e.problem);
    CHECK(says(e, sp::errc::rank_mismatch, m.one.substr(3), m.two));
    CHECK(told.load() == 2);
  }
}

TEST_CASE("faults: errors in a group name its ranks by their world ranks too [tsan]") {
  std::string const both = "rank 0 of this group is world rank 1, rank 1 is world rank 3";
  for (bool times_out : {false, true}) {
    std::array<sp::error_info, 4> of_rank;
    std::atomic<bool> given_up = false;
    auto const e = run_failure(4,
                               [&](sp::threads const& c) {
                                 auto const half = c.split(c.rank() % 2, 0);
                                 std::vector<int> data(std::size_t(1 + c.rank()), 1); // of ranks 1 and 3: counts that differ
                                 piece const p = sp::as_piece(all(data));
                                 parcel const other{1 - half.rank(), {&p, 1}};
                                 of_rank[std::size_t(c.rank())] = failure_of([&] {
                                   if (c.rank() % 2 == 0 || (times_out && c.rank() == 3)) {
                                     while (times_out && !given_up) std::this_thread::sleep_for(1ms); // rank 1 waits alone
                                     return c.barrier();
                                   }
                                   half.exchange({"x", {&other, 1}, {&other, 1}}).wait();
                                 });
                                 if (c.rank() == 1) given_up = true;
                                 if (c.rank() == 1) sp::fail(of_rank[1]);
                               },
                               {.deadline = times_out ? 1000ms : 30s});
    CHECK(says(e, times_out ? sp::errc::timeout : sp::errc::short_message, both));
    for (int r : {1, 3}) {
      auto const& mine = of_rank[std::size_t(r)];
      CHECK(has(mine.problem, both));
      CHECK(mine.rank == (times_out && r == 3 ? 3 : r / 2));
    }
    CHECK(says(of_rank[0], sp::errc::aborted, both));
  }
}

TEST_CASE("faults: errors in a group of one rank name its world rank, those of all ranks need not [tsan]") {
  auto const local = run_failure(2, [&](sp::threads const& c) {
    auto const self = c.split(c.rank(), 0);
    parcel const nobody{1, {}};
    auto const refused = failure_of([&] { self.exchange({"x", {&nobody, 1}, {}}).wait(); });
    CHECK(has(refused.problem, "rank 0 of this group is world rank 1") == (c.rank() == 1));
    c.barrier(); // what comes ends the family
    if (c.rank() == 1) static_cast<void>(self.exchange({"x", {}, {}}));
  });
  CHECK(says(local, sp::errc::bad_state, "without wait()", "rank 0 of this group is world rank 1"));
  auto const root = run_failure(2, [&](sp::threads const& c) { static_cast<void>(c.exchange({"x", {}, {}})); });
  CHECK(!has(root.problem, "world rank"));
}

TEST_CASE("faults: polls that nobody can mean are refused, and polling ends at the deadline [tsan]") {
  for (int spin : {-1, std::numeric_limits<int>::min(), 1'000'000'001, std::numeric_limits<int>::max()}) {
    auto const e = failure_of([&] { sp::threads::run(1, [](sp::threads const&) {}, {.spin = spin}); });
    CHECK(says(e, sp::errc::bad_state, std::to_string(spin) + " polls"));
  }
  auto attempt = [] {
    auto const begin = timer::now();
    std::atomic<timer::rep> took = 0;
    auto const e = run_failure(2,
                               [&](sp::threads const& c) {
                                 if (c.rank() == 1) {
                                   while (took == 0) std::this_thread::sleep_for(1ms);
                                   return;
                                 }
                                 auto const info = failure_of([&] { c.barrier(); });
                                 took = (timer::now() - begin).count();
                                 sp::fail(info);
                               },
                               {.deadline = 100ms, .spin = 1'000'000'000});
    attempted a{.took = timer::duration(took.load())};
    a.expect(e.code == sp::errc::timeout, "it is a timeout");
    return a;
  };
  CHECK(within(160ms, attempt) == "");
}

namespace {

/// What rank 1 calls and what the others call, and how an error names both.
struct pair {
  operation most, other;
  std::string one, two;
};

} // namespace

TEST_CASE("faults: operations of two kinds at one time are told apart, long before the deadline [tsan]") {
  operation const barrier = [](sp::threads const& c) { c.barrier(); };
  operation const show = [](sp::threads const& c) { c.publish("show", {}).release(); };
  operation const ring = [](sp::threads const& c) {
    ring_step s(c.rank(), c.size(), 1);
    c.exchange(s.traffic("ring")).wait();
  };
  operation const check = [](sp::threads const& c) { // one rank looks at its arguments with everybody, the others go on
    everybody x(c.rank(), c.size(), 0, [](int, int) { return 8; });
    c.exchange(x.traffic("check")).wait();
  };
  operation const nothing = [](sp::threads const& c) {
    c.exchange({"empty", {}, {}}).wait();
    c.barrier();
  };
  for (pair const& p : {pair{ring, barrier, "ring (exchange)", "barrier"}, pair{barrier, ring, "barrier", "ring (exchange)"},
                        pair{show, ring, "show (publish 0)", "ring (exchange)"}, pair{ring, check, "ring", "check"},
                        pair{check, nothing, "check (exchange)", "empty (exchange)"}})
    for (int size : {2, 4}) {
      std::atomic<int> told = 0;
      auto const e = run_failure(size,
                                 [&](sp::threads const& c) {
                                   c.barrier();
                                   auto const info = failure_of([&] {
                                     (c.rank() == 1 ? p.other : p.most)(c);
                                     c.barrier(); // in a ring of four, rank 3 has done with its neighbours
                                   });
                                   told += info.code == sp::errc::rank_mismatch;
                                   sp::fail(info);
                                 },
                                 {.deadline = 2s});
      INFO(p.one << " against " << p.two << " on " << size << ": " << e.problem);
      CHECK(says(e, sp::errc::rank_mismatch, p.one, p.two));
      CHECK(told == 2); // both sides
    }
}

TEST_CASE("faults: run() does not return normally from a family that a dropped token or publication has ended [tsan]") {
  for (bool unwinding : {false, true})
    for (bool publication : {false, true}) {
      auto const e = run_failure(2, [&](sp::threads const& c) {
        ring_step s(c.rank(), 2, 7);
        try {
          std::optional<sp::threads::token> token;
          std::optional<sp::threads::publication> shown;
          if (publication) shown = c.publish("show", {});
          if (!publication && c.rank() == 0) token = c.exchange(s.traffic());
          if (unwinding) throw std::logic_error("kept here");
        } catch (std::logic_error const&) {
        }
      });
      CHECK(says(e, sp::errc::bad_state, publication ? "a publication was destroyed" : "a token was destroyed"));
    }
}

TEST_CASE(
    "faults: however many publications a rank drops, it waits for one deadline, and release() waits for no second one [tsan]") {
  constexpr auto deadline = 200ms;
  for (bool released : {false, true}) {
    auto attempt = [&] {
      std::atomic<timer::rep> took = 0;
      auto const e = run_failure(2,
                                 [&](sp::threads const& c) {
                                   std::vector<sp::threads::publication> shown;
                                   for (int k = 0; k < 4; ++k) shown.push_back(c.publish("show", {}));
                                   if (c.rank() == 1) { // reads on, and knows of nothing
                                     while (took == 0) std::this_thread::sleep_for(1ms);
                                     return;
                                   }
                                   auto const begin = timer::now();
                                   sp::error_info info;
                                   if (released) info = failure_of([&] { shown[0].release(); });
                                   shown.clear();
                                   took = (timer::now() - begin).count();
                                   if (released) sp::fail(info);
                                 },
                                 {.deadline = deadline});
      attempted a{.took = timer::duration(took.load())};
      a.expect(says(e, released ? sp::errc::timeout : sp::errc::bad_state, released ? "within 200 ms" : "without release()"),
               "the deadline, or the dropped publication, is the cause");
      a.expect(a.took >= deadline, "it waits for the deadline");
      return a;
    };
    CHECK_MESSAGE(within(deadline + deadline / 4, attempt) == "", "released " << released);
  }
}

TEST_CASE("faults: parcels to oneself of different bytes end the family [tsan]") {
  std::atomic<int> aborted = 0;
  sp::threads::run(
      2,
      [&](sp::threads const& c) {
        ring_step s(c.rank(), 2, 7);
        parcel const own{c.rank(), s.send.pieces};
        if (c.rank() == 0)
          CHECK(says(failure_of([&] {
                       c.exchange({"x", {&own, 1}, {}}).wait();
                     }),
                     sp::errc::short_message, "sends 4 bytes", "expects 0"));
        aborted += failure_of([&] {
                     while (true) c.barrier();
                   }).code == sp::errc::aborted;
      },
      patient);
  CHECK(aborted == 2);
}

TEST_CASE("faults: a wait that failed fails again [tsan][asan]") {
  std::atomic<int> refused = 0;
  std::atomic<bool> open = false;
  try {
    sp::threads::run(
        2,
        [&](sp::threads const& c) {
          if (c.rank() == 1) {
            while (!open) std::this_thread::yield();
            throw std::runtime_error("the original");
          }
          ring_step s(c.rank(), 2, 7);
          auto t = c.exchange(s.traffic());
          open = true;
          for (int k = 0; k < 3; ++k) refused += failure_of([&] { t.wait(); }).code == sp::errc::aborted;
          CHECK(s.in == -1);
        },
        patient);
  } catch (std::runtime_error const&) {
  }
  CHECK(refused == 3);
}

TEST_CASE("faults: a cause that was caught is not replaced by its consequence [tsan]") {
  auto const e = run_failure(2, [](sp::threads const& c) {
    ring_step s(c.rank(), 2, 7);
    try {
      auto t = c.exchange(s.traffic());
      if (c.rank() == 0) throw std::runtime_error("caught below");
      t.wait();
    } catch (std::runtime_error const&) {
    }
    while (true) c.barrier();
  });
  CHECK(says(e, sp::errc::bad_state, "without wait()"));
  CHECK(e.rank == 0);
}

TEST_CASE("faults: truncated and doubled messages are found by their counts [tsan][asan]") {
  for (bool twice : {false, true}) {
    auto const e = run_failure(3, [&](sp::threads const& inner) {
      sp::chaos_options o;
      (twice ? o.duplicate_at : o.truncate_at) = inner.rank() == 1 ? 3 : -1;
      sp::chaos c(inner, o);
      for (int k = 0; k < 4; ++k) {
        everybody x(c.rank(), 3, k, [](int, int) { return 10; });
        c.exchange(x.traffic("x")).wait();
        CHECK(x.arrived());
      }
    });
    CHECK(says(e, sp::errc::short_message, twice ? "rank 1 sends 80 bytes" : "rank 1 sends 36 bytes", "expects 40"));
  }
}

TEST_CASE("faults: a peer that has returned is named without waiting for the deadline [tsan]") {
  for (bool in_barrier : {false, true}) {
    auto const begin = timer::now();
    auto const e = run_failure(3, [&](sp::threads const& c) {
      if (c.rank() == 2) return;
      ring_step s(c.rank(), 3, 1);
      if (in_barrier)
        c.barrier();
      else
        c.exchange(s.traffic()).wait();
    });
    CHECK(says(e, sp::errc::peer_failed, "rank 2 has returned"));
    CHECK(timer::now() - begin < 10s);
  }
}

TEST_CASE("faults: a failure in one group ends the others, every operation of each, and groups made before [tsan][asan]") {
  std::atomic<int> refused = 0;
  auto const e = run_failure(4, [&](sp::threads const& c) {
    auto row = c.split(c.rank() / 2, 0), column = c.split(c.rank() % 2, 0);
    c.barrier(); // whoever is inside leaves it, the failure comes later
    if (c.rank() == 3) row.abort({sp::errc::non_finite, "NaN in row 7", "Lower the rate"});
    std::vector<std::function<void()>> const calls{
        [&] {
          while (true) column.barrier();
        },
        [&] { column.exchange({}).wait(); },
        [&] { row.exchange({}).wait(); },
        [&] { static_cast<void>(c.split(0, 0)); },
        [&] { c.publish("p", {}).release(); },
        [&] { row.barrier(); },
    };
    for (auto const& call : calls) {
      auto const info = failure_of(call);
      refused += says(info, sp::errc::aborted, "rank 3 of 4", "NaN in row 7") && info.peer == 3;
    }
    c.exchange({}).wait();
  });
  CHECK(refused.load() == 24);
  CHECK(says(e, sp::errc::non_finite, "NaN in row 7"));
}

TEST_CASE("faults: an error that every body handles does not leave run()") {
  std::atomic<int> handled = 0;
  sp::threads::run(
      2,
      [&](sp::threads const& c) {
        if (c.rank() == 0) c.abort({sp::errc::backend_error, "gone", "-"});
        handled += failure_of([&] {
                     while (true) c.barrier();
                   }).code == sp::errc::aborted;
      },
      patient);
  CHECK(handled == 2);
}

TEST_CASE("faults: a token that dies unwaited ends the family, and no peer touches its buffers afterwards [tsan][asan]") {
  for (bool unwinding : {false, true})
    for (int size : {2, 4})
      for (int round = 0; round < 10; ++round) {
        std::atomic<int> told = 0;
        bool original = false;
        try {
          sp::threads::run(
              size,
              [&](sp::threads const& c) {
                try {
                  for (int k = 0;; ++k) {
                    auto out = std::make_unique<std::vector<int>>(30000, 1); // dies right after the token
                    auto in = std::make_unique<std::vector<int>>(30000, 2);
                    piece const a = sp::as_piece(all(*out)), b = sp::as_piece(all(*in));
                    parcel const to{(c.rank() + 1) % size, {&a, 1}}, from{(c.rank() + size - 1) % size, {&b, 1}};
                    auto t = c.exchange({"ring", {&to, 1}, {&from, 1}});
                    if (c.rank() == 1 && k == round) {
                      if (unwinding) throw std::runtime_error("the original");
                      return;
                    }
                    t.wait();
                  }
                } catch (sp::error const& e) {
                  told += e.code() == sp::errc::aborted && e.info().peer == 1 && (unwinding || has(e.what(), "without wait()"));
                  throw;
                }
              },
              patient);
        } catch (sp::error const& e) {
          original = !unwinding && says(e.info(), sp::errc::bad_state, "without wait()");
        } catch (std::runtime_error const& e) {
          original = unwinding && e.what() == std::string("the original");
        }
        CHECK(original);
        CHECK(told.load() == size - 1);
      }
}

TEST_CASE("faults: a publication that dies unreleased waits for its readers [tsan][asan]") {
  for (int round = 0; round < 10; ++round) {
    std::atomic<int> sums = 0, told = 0;
    bool original = false;
    try {
      sp::threads::run(
          3,
          [&](sp::threads const& c) {
            auto mine = std::make_unique<std::vector<int>>(20000, 1); // dies right after the publication
            piece const p = sp::as_piece(all(*mine));
            auto shown = c.publish("pull", {&p, 1});
            if (c.rank() == 0) throw std::runtime_error("the original");
            int sum = 0;
            for (int lap = 0; lap < 20; ++lap) {
              auto const v = sp::as_view<int, 1>(shown.of(0)[0]);
              for (sp::index_t i = 0; i < v.extent(0); ++i) sum += v(i);
              std::this_thread::sleep_for(100us);
            }
            sums += sum == 400000;
            try {
              shown.release();
            } catch (sp::error const& e) {
              told += e.code() == sp::errc::aborted;
              throw;
            }
          },
          patient);
    } catch (std::runtime_error const& e) {
      original = e.what() == std::string("the original");
    }
    CHECK(original);
    CHECK(sums.load() == 2);
    CHECK(told.load() == 2);
  }
}

TEST_CASE("faults: chaos fails the n-th call of any rank, and run() rethrows that [tsan]") {
  for (int r = 0; r < 3; ++r)
    for (sp::index_t n = 0; n < 6; ++n) {
      auto const e = run_failure(3, [&](sp::threads const& inner) {
        sp::chaos c(inner, {.seed = 3, .max_delay = 100us, .fail_at = inner.rank() == r ? n : -1});
        auto half = c.split(c.rank() % 2, 0);
        for (int k = 0; k < 3; ++k) {
          everybody x(half.rank(), half.size(), k, [](int, int) { return 3; });
          half.exchange(x.traffic("x")).wait();
          c.barrier();
        }
      });
      CHECK(says(e, sp::errc::backend_error, "call " + std::to_string(n)));
      CHECK(e.rank == r);
    }
}

} // namespace test_faults
