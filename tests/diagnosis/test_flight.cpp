// Flight records: what the ring keeps, that every rank's file is there after a failure, and what the merge tool says of real ones.
// The sentences of the tool are compared with what was really done to the ranks.
// waits: for deadlines and for the merge tool
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <new>
#include <thread>
#include <vector>

#include <sys/stat.h>

#include <sp/threads.hpp>

#include "collective/pieces.hpp"
#include "diagnosis/scratch.hpp"
#include "support/failure.hpp"
#ifndef SP_TEST_SANITIZED
#include "support/allocations.hpp"
#endif

namespace test_flight {
using namespace diagnosis_tests;
using collective_tests::all;
using collective_tests::ring_step;
using namespace std::chrono_literals;
using timer = std::chrono::steady_clock;

namespace {

void ring(sp::threads const& c, char const* primitive = "ring") {
  ring_step s(c.rank(), c.size(), 1);
  c.exchange(s.traffic(primitive)).wait();
}

/// Runs `body` on `ranks` ranks, which must fail, with flight records; what the tool says of them.
template <class Body>
outcome autopsy(scratch const& folder, int ranks, Body&& body, std::string const& files = "flight.*") {
  sp::diagnosis::configure({.flight_file = folder / "flight.%r.json"});
  try {
    sp::threads::run(ranks, body, {.deadline = 300ms});
    FAIL("nothing failed");
  } catch (std::exception const&) {
  }
  CHECK(folder.files() == std::size_t(ranks));
  return run(tool() + (folder / files));
}

/// What the threads of a test wait for.
void until(std::atomic<int> const& counter, int n) {
  while (counter < n) std::this_thread::sleep_for(1ms);
}

} // namespace

TEST_CASE("flight recorder: what a thread destroys last is recorded by nobody, and touches no recorder that has gone") {
  auto const first = std::make_shared<sp::flight_recorder>(1, 4, 5, 8), late = std::make_shared<sp::flight_recorder>(1, 4, 5, 8);
  struct dies_last { // a static communicator of the main thread does
    std::shared_ptr<sp::flight_recorder> late;
    int* left;
    ~dies_last() {
      sp::located({"object", ".call"}, [] {});
      *left += sp::flight_recorder::record_calls_of_thread(std::move(late)) == nullptr;
    }
  };
  int left = 0;
  std::thread([&] {
    static thread_local dies_last last{late, &left}; // made before what records calls
    CHECK(last.late == late);
    sp::flight_recorder::record_calls_of_thread(first);
    sp::located({"object", ".call"}, [] {});
  }).join();
  CHECK(left == 1);
  CHECK((first->recorded() == 1 && late->recorded() == 0));
  CHECK((first.use_count() == 1 && late.use_count() == 1));
}

TEST_CASE("flight recorder: the ring keeps the last operations, numbers go on, tickets of lost records are ignored") {
  sp::flight_recorder r(1, 4, 5, 0); // five become eight
  auto group = r.join(0, 1, {0, 1, 2, 3});
  auto const first = r.begin(group, sp::operation_kind::barrier, "barrier");
  for (int i = 0; i < 20; ++i) {
    auto const t = r.begin(group, sp::operation_kind::exchange, "x");
    r.posted(t, 10 * i, 20 * i);
    if (i % 2 == 0) r.waiting(t, 3);
    r.done(t);
  }
  auto const last = r.begin(group, sp::operation_kind::publish, "show");
  r.waiting(last, 2);
  r.failed(last);
  r.posted(first, 777, 777); // its record is gone
  r.waiting(first, 1);
  r.done(first);
  auto const list = r.snapshot();
  REQUIRE(list.size() == 8);
  CHECK(r.recorded() == 22);
  for (std::size_t i = 0; i < 7; ++i) {
    CHECK(list[i].number == 14 + i);
    CHECK(list[i].state == sp::operation_state::done);
    CHECK(list[i].bytes_out == 10 * sp::index_t(13 + i));
    CHECK((list[i].peer == 3) == (i % 2 == 1));
    CHECK((list[i].wait != 0) == (i % 2 == 1));
  }
  CHECK(list[7].kind == sp::operation_kind::publish);
  CHECK(list[7].state == sp::operation_state::failed);
  CHECK(list[7].peer == 2);
  CHECK((list[7].begin <= list[7].wait && list[7].wait <= list[7].end));
  sp::flight_recorder off(0, 1, 0, 0);
  auto nothing = off.join(0, 0, {0});
  CHECK(off.begin(nothing, sp::operation_kind::barrier, "barrier") == 0);
  CHECK(off.snapshot().empty());
}

TEST_CASE("flight recorder: calls nested sixteen deep are recorded and ended, those below leave no trace") {
  for (bool throws : {false, true}) {
    auto const r = std::make_shared<sp::flight_recorder>(0, 1, 64, 0);
    auto const before = sp::flight_recorder::record_calls_of_thread(r);
    std::size_t open = 0;
    auto nest = [&](auto const& self, int depth) -> void {
      sp::located({"trainer", depth % 2 ? ".odd" : ".even", 0, 1}, [&] {
        if (depth < 18) return self(self, depth + 1);
        open = r->snapshot().size();
        if (throws) throw 1;
      });
    };
    for (int again = 0; again < 2; ++again) {
      try {
        nest(nest, 1);
        CHECK(!throws);
      } catch (int) {
        CHECK(throws);
      }
      CHECK(open == 16 * std::size_t(again + 1));
    }
    sp::flight_recorder::record_calls_of_thread(before);
    auto const list = r->snapshot();
    REQUIRE(list.size() == 32);
    for (std::size_t i = 0; i < 32; ++i) {
      CHECK(list[i].kind == sp::operation_kind::call);
      CHECK(std::string(list[i].call) == (i % 2 == 0 ? ".odd" : ".even"));
      CHECK(list[i].state == (throws ? sp::operation_state::failed : sp::operation_state::done));
      CHECK(list[i].rank == 0);
      CHECK((list[i].begin != 0 && list[i].begin <= list[i].end));
      if (i % 16 > 0) CHECK((list[i - 1].begin <= list[i].begin && list[i].end <= list[i - 1].end));
    }
  }
}

TEST_CASE("flight recorder: read while it is written [tsan]") {
  std::atomic<int> done{0};
  long torn = 0, read = 0;
  sp::threads::run(3,
                   [&](sp::threads const& c) {
                     if (c.rank() != 2) {
                       auto pair = c.split(0, 0);
                       for (int i = 0; i < 3000; ++i) pair.barrier();
                       ++done;
                     } else {
                       auto self = c.split(1, 0);
                       std::jthread other([&] {
                         while (done < 2)
                           for (auto const& r : self.flight().snapshot()) {
                             ++read;
                             torn += r.primitive != std::string_view(r.kind == sp::operation_kind::split ? "split" : "barrier");
                             torn += r.size != (r.group == 0 ? 3 : 1);
                           }
                       });
                       while (done < 2) self.barrier();
                     }
                   },
                   {.deadline = 30s, .flight_records = 4});
  CHECK(read > 0);
  CHECK(torn == 0);
}

TEST_CASE("flight records: every rank's file is there, for its owner only, with what everybody was doing [tsan]") {
  scratch folder;
  mode_t const before = ::umask(0);
  std::atomic<int> waiting{0};
  sp::diagnosis::configure({.flight_file = folder / "flight.%r.json"});
  auto hang = [&] {
    sp::threads::run(3,
                     [&](sp::threads const& c) {
                       sp::located({"trainer", ".step", c.rank(), c.size()}, [&] {
                         ring(c);
                         if (c.rank() == 1) return until(waiting, 2); // hangs, and does not know of the failure
                         try {
                           ring(c);
                           ring(c);
                         } catch (...) {
                           ++waiting;
                           throw;
                         }
                       });
                     },
                     {.deadline = 500ms});
  };
  std::ofstream(folder / "flight.2.json") << std::string(100000, 'x'); // of an earlier run, for everybody to read
  REQUIRE(::chmod((folder / "flight.2.json").c_str(), 0666) == 0);
  auto const e = support::failure_of([&] { hang(); });
  CHECK(support::says(e, sp::errc::timeout, "500 ms", "exchanges and barriers entered by rank"));
  ::umask(before);
  for (int r = 0; r < 3; ++r) {
    std::string const path = folder / ("flight." + std::to_string(r) + ".json"), text = text_of(path);
    INFO(text);
    struct stat about {};
    REQUIRE(::stat(path.c_str(), &about) == 0);
    CHECK((about.st_mode & 0777) == 0600);
    CHECK(text.ends_with("]}\n"));
    CHECK(has(text, "\"failure\": {\"code\": \"timeout\""));
    CHECK(has(text, "\"kind\": \"call\", \"state\": \"entered\", \"primitive\": \".step\", \"call\": \"trainer.step\""));
    CHECK(count(text, "\"kind\": \"exchange\", \"state\": \"done\"") >= 1);
    CHECK(has(text, "\"state\": \"waiting\"") == (r != 1));
  }
}

TEST_CASE("flight records F1: many long ones are written after everybody was told, and show the moment of the failure") {
  constexpr int ranks = 64, records = 4096;
  scratch folder;
  sp::diagnosis::configure({.flight_file = folder / "flight.%r.json"});
  auto best = timer::duration::max(); // of three attempts: the machine may be busy
  for (int attempt = 0; attempt < 3 && best > 100ms; ++attempt) {
    std::atomic<timer::rep> thrown{0}, last{0};
    std::atomic<int> waiting{0};
    auto fail = [&] {
      sp::threads::run(ranks,
                       [&](sp::threads const& c) {
                         auto self = c.split(c.rank(), 0);
                         for (int i = 0; i < records; ++i) self.barrier();
                         if (c.rank() == 5) {
                           until(waiting, ranks - 1);
                           std::this_thread::sleep_for(10ms);
                           thrown = timer::now().time_since_epoch().count();
                           throw std::runtime_error("rank 5 fell over");
                         }
                         ++waiting;
                         auto const e = support::failure_of([&] { sp::located({"trainer", ".step"}, [&] { c.barrier(); }); });
                         timer::rep const now = timer::now().time_since_epoch().count();
                         for (timer::rep l = last; l < now && !last.compare_exchange_weak(l, now);) {
                         }
                         CHECK(support::says(e, sp::errc::aborted, "rank 5 fell over"));
                         for (int i = 0; i < 100; ++i) // what begins afterwards drives nothing out of the record
                           sp::located({"trainer", ".retry"}, [] {});
                       },
                       {.flight_records = records});
    };
    CHECK_THROWS_AS(fail(), std::runtime_error);
    best = std::min(best, timer::duration(last - thrown));
  }
  MESSAGE("the last of " << ranks << " ranks left after " << std::chrono::duration<double, std::milli>(best).count() << " ms");
  CHECK(best <= 100ms);
  CHECK(folder.files() == ranks);
  for (int r = 5; r < ranks; r += 13) { // of all it would take seconds
    std::string const text = text_of(folder / ("flight." + std::to_string(r) + ".json"));
    CHECK(text.ends_with("]}\n"));
    CHECK(count(text, "\"kind\": ") == records);
    CHECK(count(text, "\"state\": \"waiting\"") == (r != 5));
    CHECK(count(text, "\"call\": \"trainer.step\"") == (r != 5 ? 2 : 0)); // the call, and the barrier in it
    CHECK(count(text, "\"kind\": \"call\", \"state\": \"entered\"") == (r != 5));
    CHECK(!has(text, "retry"));
    CHECK(!has(text, "\"state\": \"failed\""));
  }
}

#ifndef SP_TEST_SANITIZED

TEST_CASE("flight recorder: no allocation in the steady state, on or off") {
  for (int records : {0, 64}) {
    std::atomic<long> made{0};
    sp::threads::run(2,
                     [&](sp::threads const& c) {
                       ring(c);
                       long const before = support::allocations_of_thread;
                       for (int i = 0; i < 200; ++i) {
                         ring(c);
                         c.barrier();
                         c.publish("show", {}).release();
                         sp::located({"trainer", ".step", c.rank(), c.size()}, [] {});
                       }
                       made += support::allocations_of_thread - before;
                     },
                     {.flight_records = records});
    CHECK(made == 0);
  }
}

TEST_CASE("flight records: a rank without memory goes on while it is logged and traced, and its failure reaches the others") {
  scratch folder;
  for (bool fails : {false, true}) {
    std::string const path = folder / (fails ? "b" : "a");
    sp::diagnosis::configure({.log = sp::diagnosis::level::trace,
                              .log_file = path + ".log",
                              .flight_file = path + ".flight.%r",
                              .trace_file = path + ".trace.%r"});
    std::atomic<int> told{0};
    std::atomic<bool> dropped{false};
    auto body = [&](sp::threads const& c) {
      ring_step s(c.rank(), 2, 7), t(c.rank(), 2, 8);
      c.exchange(s.traffic()).wait();
      {
        auto second = c.exchange(t.traffic());
        support::out_of_memory = c.rank() == 0;
        sp::located({"trainer", ".step"}, [&] { c.barrier(); });
        if (!fails) second.wait();
        while (fails && c.rank() == 1 && !dropped) std::this_thread::yield();
      } // both drop the second one, rank 0 first and without memory for the words
      support::out_of_memory = false;
      if (c.rank() == 0) dropped = true;
      if (fails) {
        auto const e = support::failure_of([&] {
          while (true) c.barrier();
        });
        told += e.code == sp::errc::aborted && has(e.problem, "token dropped");
      }
    };
    if (fails)
      CHECK(support::failure_of([&] { sp::threads::run(2, body); }).code == sp::errc::bad_state);
    else
      sp::threads::run(2, body);
    support::out_of_memory = false;
    CHECK(told == (fails ? 2 : 0));
    CHECK(has(text_of(path + ".trace.1"), "trainer.step"));
    auto const checked = run("python3 '" SP_TEST_DIR "/diagnosis/check_trace.py' " + path + ".trace.0");
    INFO(checked.text);
    CHECK(checked.code == 0);
  }
}

TEST_CASE("merge tool: a rank that never comes") {
  scratch folder;
  std::atomic<int> left{0};
  auto const o = autopsy(folder, 4, [&](sp::threads const& c) {
    sp::located({"ring_attention", ".forward", c.rank(), 4}, [&] {
      for (int i = 0; i < 3; ++i) ring(c, "ring.forward");
    });
    if (c.rank() == 1) sp::located({"gather_loss", "", c.rank(), 4}, [&] { until(left, 3); });
    try {
      sp::located({"ring_attention", ".backward", c.rank(), 4}, [&] {
        for (int i = 0; i < 3; ++i) ring(c, "ring.backward");
      });
    } catch (...) {
      ++left;
      throw;
    }
  });
  INFO(o.text);
  CHECK(o.code == 1);
  CHECK(has(o.text, "4 of 4 ranks left a flight record\n"));
  CHECK(has(o.text, "sp: timeout in ring.backward"));
  CHECK(has(o.text,
            "first divergence: operation 3 of group 0 (ranks 0, 1, 2, 3): rank 1 never came to ring.backward (exchange) in "
            "ring_attention.backward, where ranks 0, 2 wait; of rank 1: it is in gather_loss; its last operation is 2 of "
            "group 0, ring.forward (exchange) in ring_attention.forward, done\n"));
  auto const others = run(tool() + (folder / "flight.[023].json")); // as if rank 1 had been killed
  INFO(others.text);
  CHECK(others.code == 1);
  CHECK(has(others.text, "no record of rank 1\n"));
  CHECK(has(others.text,
            "rank 1 never came to ring.backward (exchange) in ring_attention.backward, where ranks 0, 2 wait; rank 1 left "
            "no flight record\n"));
}

TEST_CASE("merge tool: different operations, different bytes, an abort") {
  std::atomic<int> posted{0};
  {
    scratch folder;
    auto const o = autopsy(folder, 4, [&](sp::threads const& c) {
      auto row = c.split(0, -c.rank()); // the same ranks in another order
      if (c.rank() == 2) {
        until(posted, 3); // found as soon as it is there
        return row.barrier();
      }
      ring_step s(row.rank(), 4, 1);
      auto t = row.exchange(s.traffic());
      ++posted;
      t.wait();
      row.barrier(); // rank 1, opposite, got what it waited for
    });
    INFO(o.text);
    CHECK(o.code == 1);
    CHECK(has(o.text, "sp: rank_mismatch in "));
    CHECK(has(o.text,
              "first divergence: operation 0 of group 1 (ranks 0, 1, 2, 3): rank 2 entered barrier while ranks 0, 1, 3 are in "
              "ring (exchange)\n"));
  }
  {
    scratch folder;
    posted = 0;
    auto const o = autopsy(folder, 4, [&](sp::threads const& c) {
      if (c.rank() == 3) until(posted, 3); // nobody waits before all have entered, so it is found when all are on record
      std::vector<int> out(c.rank() == 3 ? 9000 : 8000, 1), in(8000);
      sp::piece const a = sp::as_piece(all(out)), b = sp::as_piece(all(in));
      sp::parcel const to{(c.rank() + 1) % 4, {&a, 1}}, from{(c.rank() + 3) % 4, {&b, 1}};
      struct counted {
        std::atomic<int>& n;
        ~counted() { ++n; }
      };
      auto t = [&] {
        counted const here{posted};
        return c.exchange({"ring", {&to, 1}, {&from, 1}});
      }();
      until(posted, 4);
      t.wait();
    });
    INFO(o.text);
    CHECK(o.code == 1);
    CHECK(has(o.text, "rank 3 sends 36000 bytes, rank 0 expects 32000"));
    CHECK(has(o.text,
              "first divergence: operation 0 of group 0 (ranks 0, 1, 2, 3): bytes differ in ring (exchange): 132000 are sent, "
              "128000 expected; ranks 0, 1, 2 send 32000 and expect 32000; rank 3 sends 36000 and expects 32000\n"));
  }
  {
    scratch folder;
    posted = 0;
    auto const o = autopsy(folder, 3, [&](sp::threads const& c) {
      c.barrier();
      if (c.rank() == 2) {
        until(posted, 2);
        throw std::runtime_error("the optimizer has diverged");
      }
      ++posted;
      c.barrier();
    });
    INFO(o.text);
    CHECK(o.code == 1);
    CHECK(has(o.text, "failure of rank 2: the optimizer has diverged\n"));
    CHECK(has(o.text, "first divergence: operation 1 of group 0 (ranks 0, 1, 2): rank 2 never came to barrier, where "));
    CHECK(has(o.text, "rank 2 failed first; it is in no call of sp; its last operation is 0 of group 0, barrier, done\n"));
  }
}

TEST_CASE("merge tool: groups that wait for each other are all named, the one with a rank that waits nowhere first") {
  scratch folder;
  std::atomic<int> left{0};
  auto const o = autopsy(folder, 4, [&](sp::threads const& c) {
    auto pair = c.split(c.rank() / 2, 0); // 0 and 1, 2 and 3
    if (c.rank() == 3) return until(left, 3);
    try {
      if (c.rank() == 2) pair.barrier(); // for rank 3
      c.barrier();                       // for ranks 2 and 3
    } catch (...) {
      ++left;
      throw;
    }
  });
  INFO(o.text);
  CHECK(o.code == 1);
  auto const first = o.text.find("first divergence: operation 0 of group "), also = o.text.find("also: operation 1 of group 0 ");
  REQUIRE((first < also && also != std::string::npos));
  CHECK(has(o.text.substr(first, also - first),
            "(ranks 2, 3): rank 3 never came to barrier, where rank 2 waits; of rank 3: it is in no "
            "call of sp; its last operation is 0 of group 0, split, done\n"));
  CHECK(has(o.text.substr(also), "(ranks 0, 1, 2, 3): ranks 2, 3 never came to barrier, where ranks 0, 1 wait; "));
}

TEST_CASE("merge tool: ranks that agree, and files that are none") {
  scratch folder;
  sp::diagnosis::configure({.flight_file = folder / "flight.%r.json"});
  sp::threads::run(3, [](sp::threads const& c) {
    auto pair = c.split(c.rank() % 2, 0);
    for (int i = 0; i < 100; ++i) {
      ring(c);
      if (i % 9 == c.rank() % 2) pair.barrier();
    }
    c.publish("show", {}).release();
    CHECK(c.flight().dump(c.flight().json(nullptr, "", -1)));
  });
  auto const o = run(tool() + (folder / "flight.*"));
  INFO(o.text);
  CHECK(o.code == 0);
  CHECK(has(o.text, "no divergence: the ranks agree in every operation that is on record\n"));
  std::ofstream(folder / "bad") << "{}";
  CHECK(run(tool() + (folder / "bad")).code == 2);
  std::ofstream(folder / "half")
      << R"({"sp_flight": 1, "rank": 0, "size": 1, "failure": null, "operations": [{"kind": "barrier"}]})";
  auto const half = run(tool() + (folder / "half"));
  CHECK((half.code == 2 && has(half.text, "cut short") && !has(half.text, "Traceback")));
  CHECK(run(tool() + (folder / "absent")).code == 2);
  CHECK(run(tool() + (folder / "flight.0.json ") + (folder / "flight.0.json")).code == 2);
  CHECK(run(tool() + "--trace " + (folder / "out ") + (folder / "flight.0.json")).code == 2);
}

#endif

} // namespace test_flight
