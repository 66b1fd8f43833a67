// Waits of sp::mpi: they serve all communicators of a thread, an operation has one deadline, other orders of operations are told apart,
// what a destructor has ended run() tells, and an abort from another thread may meet a group that ends.
#include "ranks.hpp"

#include <functional>
#include <optional>

namespace test_mpi_waits {

using namespace mpi_tests;
using large = sp::mpi_options::parcels;

namespace {

/// Between ranks 0 and 1: one parcel in each direction.
struct swap {
  int rank;
  std::vector<int> out, in;
  piece send{}, receive{};
  parcel to{}, from{};
  swap(int r, int n, int value)
      : rank(r), out(std::size_t(n), 100 * r + value), in(std::size_t(n), -1), send(sp::as_piece(all(out))),
        receive(sp::as_piece(all(in))), to{1 - r, {&send, 1}}, from{1 - r, {&receive, 1}} {}
  sp::mpi::token begin(sp::mpi const& c) const { return c.exchange({"swap", {&to, 1}, {&from, 1}}); }
  bool arrived() const { return std::count(in.begin(), in.end(), 100 * (1 - rank) + out[0] % 100) == std::ptrdiff_t(in.size()); }
};

} // namespace

TEST_CASE("mpi waits: two communicators, and two exchanges of one, are waited for in crossed order") {
  for (auto how : {large::direct, large::owned})
    for (int n : {3000, 700000}) {
      sp::mpi_options const o{.deadline = 3s, .large_parcels = how};
      auto const ranks = outcomes(
          2,
          [&](sp::mpi const& a) {
            sp::mpi const b(first(2), o);
            swap one(a.rank(), n, 1), two(a.rank(), n, 2), three(a.rank(), n, 3);
            auto s = one.begin(a), t = two.begin(b), u = three.begin(a);
            if (a.rank() == 0) s.wait(), t.wait(), u.wait();
            if (a.rank() == 1) u.wait(), t.wait(), s.wait();
            CHECK((one.arrived() && two.arrived() && three.arrived()));
            auto v = one.begin(a); // and one that meets what is no exchange
            if (a.rank() == 0) v.wait(), b.barrier();
            if (a.rank() == 1) b.barrier(), v.wait();
            CHECK(one.arrived());
          },
          o);
      for (auto const& r : ranks) CHECK_MESSAGE(!r.failed, n << " ints: " << r.what);
    }
}

TEST_CASE("mpi waits: ranks that differ in the kind or the order of operations are told both names, long before the deadline") {
  using operation = std::function<void(sp::mpi const&)>;
  operation const barrier = [](sp::mpi const& c) { c.barrier(); };
  operation const ring = [](sp::mpi const& c) {
    ring_step s(c.rank(), c.size(), 1);
    c.exchange(s.traffic("ring")).wait();
  };
  operation const check = [](sp::mpi const& c) { // one rank looks at its arguments with everybody, the others go on
    everybody x(c.rank(), c.size(), 0, [](int, int) { return 8; });
    c.exchange(x.traffic("check")).wait();
  };
  operation const nothing = [](sp::mpi const& c) {
    c.exchange({"empty", {}, {}}).wait();
    c.barrier();
  };
  operation const parts = [](sp::mpi const& c) { static_cast<void>(c.split(0, 0)); };
  struct pair {
    operation most, other;
    std::string one, two;
  };
  for (pair const& p : {pair{ring, barrier, "ring (exchange)", "barrier"}, pair{barrier, ring, "barrier", "ring (exchange)"},
                        pair{parts, ring, "split", "ring (exchange)"}, pair{ring, check, "in ring", "in check"},
                        pair{check, nothing, "in check", "in empty"}})
    for (int size : {2, 4}) {
      auto const ranks = outcomes(size,
                                  [&](sp::mpi const& c) {
                                    c.barrier();
                                    (c.rank() == 1 ? p.other : p.most)(c);
                                    c.barrier();
                                  },
                                  {.deadline = 2s});
      int told = 0;
      for (auto const& r : ranks) {
        told += r.code == sp::errc::rank_mismatch;
        CHECK_MESSAGE((r.failed && r.says(p.one) && r.says(p.two)), p.one << " against " << p.two << ": " << r.what);
        CHECK(r.seconds < 1.9);
      }
      CHECK(told >= 1); // the other side may have heard of it before it sees for itself
    }
}

TEST_CASE("mpi waits: an operation that waits for several ranks has one deadline") {
  constexpr auto deadline = 300ms;
  std::vector<std::function<void(sp::mpi const&)>> const operations{[](sp::mpi const& c) { c.barrier(); },
                                                                    [](sp::mpi const& c) { static_cast<void>(c.split(0, 0)); }};
  for (auto const& operation : operations) {
    auto attempt = [&] {
      double waited = 0;
      auto const ranks = outcomes(4,
                                  [&](sp::mpi const& c) {
                                    c.barrier();
                                    // two come just in time for the ranks that wait for them, and wait for the last one
                                    if (c.rank() != 0)
                                      std::this_thread::sleep_for(c.rank() == 2 ? 4 * deadline : deadline * 8 / 10);
                                    auto const begin = timer::now();
                                    try {
                                      operation(c);
                                    } catch (sp::error const&) {
                                      waited = std::chrono::duration<double>(timer::now() - begin).count();
                                      throw;
                                    }
                                  },
                                  {.deadline = deadline});
      verdict v;
      for (auto const& r : ranks) v.expect(r.failed, "all fail");
      for (double w : shared_by_all(waited)) v.seconds = std::max(v.seconds, w);
      v.expect(v.seconds >= 0.9 * std::chrono::duration<double>(deadline).count(), "one has waited for the whole deadline");
      return v;
    };
    CHECK(within(deadline + deadline / 10 + 50ms, attempt));
  }
}

TEST_CASE("mpi waits: run() does not return normally from a family that a dropped token has ended") {
  for (bool unwinding : {false, true}) {
    auto const ranks = outcomes(2, [&](sp::mpi const& c) {
      ring_step s(c.rank(), 2, 7);
      try {
        if (c.rank() == 0) {
          auto t = c.exchange(s.traffic());
          if (unwinding) throw std::logic_error("kept here");
        }
      } catch (std::logic_error const&) {
      }
      if (c.rank() == 1) {
        c.exchange(s.traffic()).wait();
        while (true) c.barrier();
      }
    });
    CHECK(ranks[0].code == sp::errc::bad_state);
    CHECK_MESSAGE(ranks[0].says("a token was destroyed without wait()"), ranks[0].what);
    CHECK(ranks[1].code == sp::errc::aborted);
  }
  auto const handled = outcomes(2, [&](sp::mpi const& c) { // a failure that the body was told, and keeps
    CHECK(failure_of([&] {
            c.barrier(); // both are in the body: one that is slow to leave the barrier before it would be told there
            if (c.rank() == 0) c.abort({sp::errc::non_finite, "enough", "-"});
            while (true) c.barrier();
          }).code == sp::errc::aborted);
  });
  for (auto const& r : handled) CHECK(!r.failed);
}

TEST_CASE("mpi waits: all tokens that a failure leaves behind are dropped in one deadline, and run() tells what MPI holds") {
  constexpr auto deadline = 200ms;
  for (bool waits : {true, false}) {
    auto attempt = [&] {
      auto& kept = *new std::vector<swap>; // never freed: MPI holds this memory when the deadline is over
      for (int k = 0; k < 3; ++k) kept.emplace_back(1 - process(), 1 << 19, k);
      for (swap& s : kept) s.to.pieces = {&s.send, 1}, s.from.pieces = {&s.receive, 1};
      auto const ranks = outcomes(2,
                                  [&](sp::mpi const& c) {
                                    sp::mpi const turned = c.split(0, -c.rank()); // rank 0 of this group is world rank 1
                                    std::vector<sp::mpi::token> tokens;
                                    c.barrier();
                                    if (c.rank() == 0) std::this_thread::sleep_for(30ms); // then rank 1 is asleep
                                    for (swap const& s : kept) tokens.push_back(s.begin(turned));
                                    if (c.rank() == 1) std::this_thread::sleep_for(4 * deadline);
                                    if (c.rank() == 1 || waits) tokens[0].wait();
                                  },
                                  {.deadline = deadline, .large_parcels = large::direct});
      verdict v(ranks[0].seconds);
      for (auto const& r : ranks) v.expect(r.failed, "all fail");
      v.expect(ranks[0].says("between this rank and world rank 1 is"), std::string("the peer is named: ") + ranks[0].what);
      v.expect(ranks[0].says("MPI holds the memory"), std::string("MPI holds the memory: ") + ranks[0].what);
      return v;
    };
    CHECK(within(deadline + deadline / 10 + 130ms, attempt));
  }
}

TEST_CASE("mpi waits: polls that nobody can mean are refused, and polling ends at the deadline") {
  for (int spin : {-1, 1'000'000'001}) {
    auto const e = failure_of([&] { sp::mpi c(MPI_COMM_SELF, {.spin = spin}); });
    CHECK(says(e, sp::errc::bad_state, std::to_string(spin) + " polls"));
  }
  auto attempt = [] {
    auto const ranks = outcomes(2,
                                [](sp::mpi const& c) {
                                  if (c.rank() == 1) std::this_thread::sleep_for(400ms);
                                  c.barrier();
                                },
                                {.deadline = 200ms, .spin = 1'000'000'000});
    verdict v(ranks[0].seconds);
    v.expect(ranks[0].code == sp::errc::timeout, std::string("rank 0 has a timeout: ") + ranks[0].what);
    return v;
  };
  CHECK(within(270ms, attempt));
}

TEST_CASE("mpi waits: an abort from another thread meets groups that end [tsan]") {
  for (int round = 0; round < 20; ++round) {
    auto const ranks = outcomes(2, [&](sp::mpi const& c) {
      std::vector<sp::mpi> groups;
      for (int k = 0; k < 6; ++k) groups.push_back(c.split(0, k));
      c.barrier();
      std::thread outside([last = groups.back(), c] {
        last.abort({sp::errc::backend_error, "the power went", "Buy a battery"});
      });
      groups.clear();
      outside.join();
      while (true) c.barrier();
    });
    for (auto const& r : ranks) CHECK((r.code == sp::errc::aborted && r.says("the power went")));
  }
}

TEST_CASE("mpi waits: an abort of a thread that outlives the body meets the end of run() [tsan]") {
  for (int round = 0; round < 30; ++round) {
    std::optional<sp::mpi> kept;
    std::thread outside;
    auto const ranks = outcomes(2, [&](sp::mpi const& c) {
      kept.emplace(c);
      outside = std::thread([&] { kept->abort({sp::errc::backend_error, "the power went", "Buy a battery"}); });
    });
    if (outside.joinable()) outside.join();
    kept.reset();
    for (auto const& r : ranks) CHECK_MESSAGE((!r.failed || (r.code == sp::errc::aborted && r.says("the power went"))), r.what);
  }
}

} // namespace test_mpi_waits
