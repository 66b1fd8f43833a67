// F3: every argument, option and operation wrong on each rank in turn, at check level 2, in prepare, forward and backward.
// All ranks throw rank_mismatch together, name the right rank and field, and the communicator can be used on.
#include <doctest/doctest.h>

#include <chrono>
#include <mutex>

#include "checks/step_arguments.hpp"

namespace checks::test_mismatch {
namespace {

using clock = std::chrono::steady_clock;
constexpr sp::threads_options patient{.deadline = std::chrono::seconds(60)};

enum class phase { prepare, forward, backward };

/// One argument made wrong: what the message calls it, and from which phase on it can be seen.
struct fault {
  char const* field;
  void (*spoil)(arguments&);
  phase first;
  phase last = phase::backward; ///< the last phase in which it can be seen
  bool ring_only = false;       ///< means nothing where the ring has one rank
  bool ulysses_only = false;    ///< rings have no such option
};
fault const faults[] = {
    {"check level", [](arguments& a) { a.level = 3; }, phase::prepare},
    {"element type", [](arguments& a) { a.single = true; }, phase::forward},
    {"q heads", [](arguments& a) { a.q_heads = 8; }, phase::forward},
    {"kv heads", [](arguments& a) { a.kv_heads = 4; }, phase::forward},
    {"dim", [](arguments& a) { a.dim = 6; }, phase::forward},
    {"value dim", [](arguments& a) { a.value_dim = 6; }, phase::forward},
    {"documents",
     [](arguments& a) {
       a.cu = {0, 10, 24};
     },
     phase::prepare},
    {"sharding", [](arguments& a) { a.zigzag = false; }, phase::prepare, phase::backward, true},
    {"tokens", [](arguments& a) { a.tokens = 8; }, phase::prepare},
    {"mask", [](arguments& a) { a.mask = sp::window(3); }, phase::prepare},
    {"scale", [](arguments& a) { a.scale = 0.25; }, phase::forward},
    {"schedule", [](arguments& a) { a.schedule = sp::schedule::cast; }, phase::prepare, phase::backward, true},
    {"head chunks", [](arguments& a) { a.head_chunks = 2; }, phase::prepare},
    {"keep", [](arguments& a) { a.keep = sp::keep::output; }, phase::prepare, phase::backward, false, true},
    {"head chunks of ulysses", [](arguments& a) { a.ulysses_chunks = 2; }, phase::prepare, phase::backward, false, true},
    {"sinks", [](arguments& a) { a.sinks = true; }, phase::forward},
    {"accumulate", [](arguments& a) { a.accumulate = true; }, phase::backward},
    {"kernel features", [](arguments& a) { a.cap = 20; }, phase::prepare},
    {"random key", [](arguments& a) { a.seed = 4; }, phase::forward},
};

/// What the other ranks should read when `victim` differs.
std::string sentence(int victim, int ranks, char const* field) {
  std::string others;
  for (int r = 0; r < ranks; ++r)
    if (r != victim) others += (others.empty() ? "" : ", ") + std::to_string(r);
  return "rank " + std::to_string(victim) + " differs from ranks " + others + " in " + field + ": ";
}

/// f(object, prepared, tensors, context) for one set of arguments, with the element type it names.
template <class Place, class F>
void with_step(Place const& at, kind k, arguments const& a, F&& f) {
  at.with(k, a, [&](auto const& object) {
    sp::batch b = at.batch(a);
    sp::pool memory;
    sp::context const context(memory, memory, {a.seed, 1});
    auto run = [&](auto t) {
      tensors<decltype(t)> x(b, a);
      f(object, object.prepare(b), x, context);
    };
    a.single ? run(float{}) : run(double{});
  });
}

/// The step of arguments `good`, where in `when` this rank uses `bad` instead if it is the victim. Both geometries are prepared
/// and both forwards run by all ranks, so that one rank alone is wrong in one phase alone.
template <class Place>
outcome step(Place const& at, kind k, arguments const& good, arguments const& bad, bool victim, phase when) {
  outcome result;
  if (when == phase::prepare) {
    result = outcome_of([&] {
      at.with(k, victim ? bad : good,
              [&](auto const& object) { static_cast<void>(object.prepare(at.batch(victim ? bad : good))); });
    });
    return result;
  }
  with_step(at, k, good, [&](auto const& object, auto const& p, auto& x, sp::context<> const& c) {
    with_step(at, k, bad, [&](auto const& other, auto const& q, auto& y, sp::context<> const& d) {
      if (when == phase::forward) {
        result = outcome_of([&] { victim ? void(y.forward(other, q, d)) : void(x.forward(object, p, c)); });
      } else {
        auto s = x.forward(object, p, c);
        auto t = y.forward(other, q, d);
        result = outcome_of([&] { victim ? y.backward(other, q, d, std::move(t)) : x.backward(object, p, c, std::move(s)); });
      }
    });
  });
  return result;
}

struct seen {
  std::mutex lock;
  std::vector<std::string> wrong;
  int cases = 0;
  double longest = 0;
};

/// All faults on all ranks in one run: after each, the communicator still works.
void every_fault(kind k, int ranks, seen& found) {
  sp::threads::run(
      ranks,
      [&](sp::threads const& comm) {
        place<sp::threads> const at(k, comm);
        for (fault const& f : faults)
          for (auto when : {phase::prepare, phase::forward, phase::backward}) {
            if (when < f.first || (f.ring_only && k == kind::ulysses) || (f.ulysses_only && k == kind::ring)) continue;
            for (int victim = 0; victim < ranks; ++victim) {
              arguments good, bad;
              f.spoil(bad);
              auto const begin = clock::now();
              outcome const o = step(at, k, good, bad, comm.rank() == victim, when);
              double const took = std::chrono::duration<double>(clock::now() - begin).count();
              bool const right = o.is(errc::rank_mismatch) && o.says(sentence(victim, ranks, f.field)) &&
                                 o.failure->rank == comm.rank() && o.failure->size == ranks &&
                                 (o.failure->peer == victim) == (comm.rank() != victim) &&
                                 o.failure->primitive.find(when == phase::prepare   ? "_attention.prepare"
                                                           : when == phase::forward ? "_attention.forward"
                                                                                    : "_attention.backward") != std::string::npos;
              std::lock_guard guard(found.lock);
              if (comm.rank() == 0) ++found.cases;
              found.longest = std::max(found.longest, took);
              if (!right)
                found.wrong.push_back(std::string(name_of(k)) + ", " + f.field + " on rank " + std::to_string(victim) +
                                      ", phase " + std::to_string(int(when)) + ", seen by rank " + std::to_string(comm.rank()) +
                                      ": " + o.text());
            }
          }
      },
      patient);
}

} // namespace

TEST_CASE("F3: each argument mismatched on each rank: all ranks name it, nobody waits") {
  struct {
    kind k;
    int ranks, cases;
  } const runs[] = {{kind::ring, 3, 123}, {kind::ulysses, 3, 123}, {kind::usp, 4, 188}};
  for (auto const& r : runs) {
    seen found;
    every_fault(r.k, r.ranks, found);
    INFO(name_of(r.k));
    for (std::size_t i = 0; i < std::min<std::size_t>(found.wrong.size(), 20); ++i) MESSAGE(found.wrong[i]);
    CHECK(found.wrong.empty());
    CHECK(found.cases == r.cases);
    CHECK(found.longest < 5); // seconds, of a deadline of 60
  }
}

TEST_CASE("F3: two ranks cannot outvote each other: both values are told") {
  std::atomic<int> told = 0;
  sp::threads::run(
      2,
      [&](sp::threads const& comm) {
        place<sp::threads> const at(kind::ring, comm);
        arguments good, bad;
        bad.q_heads = 8;
        outcome const o = step(at, kind::ring, good, bad, comm.rank() == 1, phase::forward);
        told += o.is(errc::rank_mismatch) && o.says("q heads is not the same on all ranks: 4 on rank 0; 8 on rank 1") &&
                o.failure->peer == 1 - comm.rank();
      },
      patient);
  CHECK(told == 2);
}

TEST_CASE("F3: another operation, a forgotten call, a saved of another call") {
  for (int victim = 0; victim < 3; ++victim) {
    std::atomic<int> told = 0;
    sp::threads::run(
        3,
        [&](sp::threads const& comm) {
          place<sp::threads> const at(kind::ring, comm);
          bool const mine = comm.rank() == victim;
          arguments const a;
          with_step(at, kind::ring, a, [&](auto const& object, auto const& p, auto& x, sp::context<> const& c) {
            // one rank forgets the second layer's forward and goes on to its backward
            auto first = x.forward(object, p, c);
            auto o = outcome_of([&] { mine ? x.backward(object, p, c, std::move(first)) : void(x.forward(object, p, c)); });
            told += o.is(errc::rank_mismatch) && o.says(sentence(victim, 3, "operation")) &&
                    o.says("ring_attention.backward against ring_attention.forward");
            // one rank consumes what its layers saved in the wrong order
            auto one = x.forward(object, p, c), two = x.forward(object, p, c);
            o = outcome_of([&] { x.backward(object, p, c, std::move(mine ? one : two)); });
            told += o.is(errc::rank_mismatch) && o.says(sentence(victim, 3, "number of the forward call"));
            // one rank is a step ahead: it prepares while the others still compute
            o = outcome_of([&] { mine ? void(object.prepare(at.batch(a))) : void(x.forward(object, p, c)); });
            told +=
                o.is(errc::rank_mismatch) && o.says(sentence(victim, 3, "operation")) && o.says("ring_attention.prepare against");
            // another call with the same geometry in between, on one rank, unknown to the others
            if (mine) ++p.checked.calls;
            o = outcome_of([&] { x.forward(object, p, c); });
            told += o.is(errc::rank_mismatch) && o.says(sentence(victim, 3, "call number"));
          });
        },
        patient);
    CHECK(told == 12);
  }
}

TEST_CASE("a geometry prepared at a lower level is refused, together") {
  std::atomic<int> told = 0;
  sp::threads::run(
      2,
      [&](sp::threads const& comm) {
        arguments low, high;
        low.level = 1, high.level = 3;
        sp::ring_attention cheap{comm, low.make_kernel(), low.options()}, careful{comm, high.make_kernel(), high.options()};
        sp::batch b = low.batch(comm, 1);
        tensors<double> x(b, low);
        sp::pool memory;
        auto const p = cheap.prepare(b);
        outcome const o = outcome_of([&] { x.forward(careful, p, {memory, memory}); });
        told += o.is(errc::bad_state) && o.says("prepared at a check level below 3");
      },
      patient);
  CHECK(told == 2);
}

TEST_CASE("F3: what one rank refuses by itself stops all of them, and only that rank has the reason") {
  for (kind k : {kind::ring, kind::usp})
    for (int victim = 0; victim < 4; ++victim) {
      std::atomic<int> own = 0, others = 0;
      sp::threads::run(
          4,
          [&](sp::threads const& comm) {
            place<sp::threads> const at(k, comm);
            bool const mine = comm.rank() == victim;
            std::string const who = "rank " + std::to_string(victim) + " refused ";
            auto judge = [&](outcome const& o, errc code) {
              if (mine)
                own += o.is(code);
              else
                others += o.is(errc::rank_mismatch) && o.says(who) && o.says(sp::name(code)) && o.failure->peer == victim;
            };
            with_step(at, k, arguments{}, [&](auto const& object, auto const& p, auto& x, sp::context<> const& c) {
              auto const whole = x.k;
              if (mine) x.k = whole.rows(0, whole.extent(0) - 1);
              judge(outcome_of([&] { x.forward(object, p, c); }), errc::bad_documents);
              x.k = whole;
              auto s = x.forward(object, p, c);
              auto const gradient = x.dq;
              if (mine) x.dq = gradient.narrow(0, 0, gradient.extent(0), 0); // stride 0: it overlaps itself
              judge(outcome_of([&] { x.backward(object, p, c, std::move(s)); }), errc::aliasing);
              x.dq = gradient;
              auto t = x.forward(object, p, c);
              if (mine) {
                auto gone = std::move(t);
              }
              judge(outcome_of([&] { x.backward(object, p, c, std::move(t)); }), errc::bad_state);
            });
            arguments bad;
            if (mine) bad.mask = {.lo = 2, .hi = 1};
            judge(outcome_of(
                      [&] { at.with(k, bad, [&](auto const& object) { static_cast<void>(object.prepare(at.batch(bad))); }); }),
                  errc::bad_mask);
          },
          patient);
      CHECK(own == 4);
      CHECK(others == 12);
    }
}

TEST_CASE("F3: a rank that returns, or is at another level, is told by the transport: both operations are named") {
  for (kind k : {kind::ring, kind::ulysses})
    for (int victim : {0, 1, 2, -1}) { // -1: rank 1 returns
      std::atomic<int> told = 0;
      try {
        sp::threads::run(
            3,
            [&](sp::threads const& comm) {
              place<sp::threads> const at(k, comm);
              arguments a;
              if (victim < 0 && comm.rank() == 1) return;
              if (comm.rank() == victim) a.level = 1;
              try {
                with_step(at, k, a,
                          [&](auto const& object, auto const& p, auto& x, sp::context<> const& c) { x.forward(object, p, c); });
              } catch (sp::error const&) {
                ++told;
                throw;
              }
            },
            patient);
        FAIL("nobody noticed");
      } catch (sp::error const& e) {
        std::string const what = e.what();
        INFO(what);
        CHECK(e.code() == (victim < 0 ? errc::peer_failed : errc::rank_mismatch));
        CHECK(told == (victim < 0 ? 2 : 3));
        if (victim < 0) continue;
        CHECK(what.find(" in check") != std::string::npos);
        CHECK(what.find(k == kind::ring ? " in ring.forward." : " in ulysses.forward.") != std::string::npos);
      }
    }
}

} // namespace checks::test_mismatch
