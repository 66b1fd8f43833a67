// Faults F4, F5 and F12 at the level of attention objects on threads; F1, F2 and F7 are in conformance.faults, the communicator's own in
// collective.faults. Delays change no bit; an abort from outside and a rank that leaves end everybody, with the reason.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include <sp/chaos.hpp>
#include <sp/threads.hpp>

#include "faults/step.hpp"
#include "support/failure.hpp"

namespace faults::test_objects {
namespace {

using clock = std::chrono::steady_clock;
constexpr int ranks = 4;
constexpr sp::threads_options patient{.deadline = std::chrono::seconds(30)};

template <class Body>
sp::error_info failure_of_run(Body&& body) {
  return support::failure_of([&] { sp::threads::run(ranks, body, patient); });
}

} // namespace

TEST_CASE("F4: delays at every call change no bit of any object [tsan]") {
#ifdef SP_TEST_SANITIZED
  constexpr std::uint64_t seeds = 2;
#else
  constexpr std::uint64_t seeds = 6;
#endif
  for (object o : objects) {
    std::vector<double> calm[ranks];
    for (std::uint64_t seed = 0; seed <= seeds; ++seed) {
      std::vector<double> found[ranks];
      sp::threads::run(
          ranks,
          [&](sp::threads const& inner) {
            sp::chaos comm(inner, {.seed = seed, .max_delay = std::chrono::microseconds(seed == 0 ? 0 : 400)});
            found[inner.rank()] = step(comm, o);
          },
          patient);
      INFO(name(o) << ", seed " << seed);
      for (int r = 0; r < ranks; ++r) {
        if (seed == 0) calm[r] = found[r];
        CHECK(!found[r].empty());
        CHECK(found[r] == calm[r]);
      }
    }
  }
}

TEST_CASE("F5: an abort from outside at any time ends every object with its reason [tsan]") {
  for (object o : objects)
    for (int round = 0; round < 8; ++round) {
      std::atomic<int> told = 0;
      std::atomic<clock::rep> called = 0, last = 0;
      auto const e = failure_of_run([&](sp::threads const& comm) {
        struct joined {
          std::optional<std::thread> t{};
          ~joined() {
            if (t) t->join();
          }
        } outside;
        if (comm.rank() == 0)
          outside.t.emplace([&, round] {
            std::this_thread::sleep_for(std::chrono::microseconds(350 * round));
            called = clock::now().time_since_epoch().count();
            comm.abort({sp::errc::backend_error, "the power went", "Buy a battery"});
          });
        try {
          while (true) step(comm, o);
        } catch (sp::error const& error) {
          last = clock::now().time_since_epoch().count();
          told += error.code() == sp::errc::aborted && std::string(error.what()).find("the power went") != std::string::npos;
          throw;
        }
      });
      INFO(name(o) << ", round " << round);
      CHECK(support::says(e, sp::errc::backend_error, "the power went"));
      CHECK(told == ranks);
      CHECK(clock::duration(last - called) < std::chrono::seconds(5)); // 100 ms are measured in conformance.faults
    }
}

TEST_CASE("F12: a rank that returns early, or throws, between forward and backward [tsan]") {
  for (object o : objects)
    for (bool throws : {false, true}) {
      std::atomic<int> refused = 0;
      auto body = [&](sp::threads const& comm) {
        try {
          step(comm, o);
          if (comm.rank() == 2 && throws) throw std::runtime_error("out of coffee");
          if (comm.rank() == 2) return;
          step(comm, o);
        } catch (sp::error const& e) {
          refused += e.code() == sp::errc::peer_failed || e.code() == sp::errc::aborted;
          throw;
        }
      };
      INFO(name(o) << (throws ? ", throw" : ", return"));
      if (throws)
        CHECK_THROWS_WITH_AS(sp::threads::run(ranks, body, patient), "out of coffee", std::runtime_error);
      else
        CHECK(support::says(failure_of_run(body), sp::errc::peer_failed, "rank 2 has returned"));
      CHECK(refused == ranks - 1);
    }
}

} // namespace faults::test_objects
