// sp::mpi when something goes wrong: every rank soon learns who failed and why, and nobody writes into memory that was given back.
// Each process tells the others how its body ended; times are those of one clock, and the best of three attempts counts.
#include "ranks.hpp"

#include <functional>
#include <optional>

#include <sp/chaos.hpp>

#include "collective/cases.hpp"

namespace test_mpi_faults {

using namespace mpi_tests;

namespace {

/// One round of everything that can block.
void step(sp::mpi const& c, sp::mpi const& half, int k) {
  ring_step a(c.rank(), c.size(), k);
  auto t = c.exchange(a.traffic());
  std::vector<int> out(3000, k), in(3000);
  piece const p = sp::as_piece(all(out)), q = sp::as_piece(all(in));
  parcel const to{(half.rank() + 1) % half.size(), {&p, 1}}, from{(half.rank() + half.size() - 1) % half.size(), {&q, 1}};
  half.exchange({"large", {&to, 1}, {&from, 1}}).wait();
  t.wait();
  c.barrier();
}

int count_code(std::vector<outcome> const& all, sp::errc code) {
  int n = 0;
  for (outcome const& o : all) n += o.failed && o.code == code;
  return n;
}

/// Rank r throws at step k: seconds until the last rank has left; checks what everybody saw.
double throw_at(int size, int r, int k, sp::mpi_options const& options) {
  timer::time_point thrown{};
  std::string const text = "rank " + std::to_string(r) + " fell over at step " + std::to_string(k);
  auto const all = outcomes(
      size,
      [&](sp::mpi const& c) {
        auto half = c.split(c.rank() % 2, 0);
        for (int i = 0; i < 5; ++i) {
          if (c.rank() == r && i == k) {
            thrown = timer::now();
            throw std::runtime_error(text);
          }
          step(c, half, i);
        }
      },
      options);
  auto const when = shared_by_all(thrown)[std::size_t(r)];
  double last = 0;
  for (int p = 0; p < size; ++p) {
    outcome const& o = all[std::size_t(p)];
    CHECK(o.says(text));
    if (p == r) continue;
    CHECK(o.code == sp::errc::aborted);
    CHECK(o.peer == r);
    last = std::max(last, std::chrono::duration<double>(o.left - when).count());
  }
  return last;
}

} // namespace

TEST_CASE("mpi faults F1: a throw in any rank at any step ends all ranks at once, with its text") {
  for (int size : {2, 3, 4})
    for (int r = 0; r < size; ++r)
      for (int k = 0; k < 3; ++k)
        for (auto how : {sp::mpi_options::parcels::direct, sp::mpi_options::parcels::owned})
          CHECK_MESSAGE(within(100ms, [&] { return throw_at(size, r, k, {.deadline = 30s, .large_parcels = how}); }),
                        "rank " << r << " of " << size << ", step " << k);
}

TEST_CASE("mpi faults F2: a rank that never arrives is named at the deadline, with how far everybody is") {
  using operation = std::function<void(sp::mpi const&)>;
  std::vector<std::pair<std::string, operation>> const operations{
      {"ring",
       [](sp::mpi const& c) {
         ring_step s(c.rank(), c.size(), 1);
         c.exchange(s.traffic()).wait();
         c.barrier(); // the rank opposite of rank 1 has what it needs
       }},
      {"large",
       [](sp::mpi const& c) {
         everybody x(c.rank(), c.size(), 0, [](int, int) { return 5000; });
         c.exchange(x.traffic("large")).wait();
       }},
      {"barrier", [](sp::mpi const& c) { c.barrier(); }},
      {"split", [](sp::mpi const& c) { static_cast<void>(c.split(0, 0)); }},
  };
  constexpr auto deadline = 600ms;
  for (auto const& [name, body] : operations)
    for (int size : {2, 4}) {
      auto attempt = [&, &name = name, &body = body] {
        auto const all = outcomes(size,
                                  [&](sp::mpi const& c) {
                                    c.barrier();
                                    if (c.rank() == 1) std::this_thread::sleep_for(deadline + 300ms);
                                    body(c);
                                  },
                                  {.deadline = deadline});
        verdict v;
        v.expect(count_code(all, sp::errc::timeout) >= 1, "a timeout");
        for (int r = 0; r < size; ++r) {
          outcome const& o = all[std::size_t(r)];
          v.expect(o.code == sp::errc::timeout || o.code == sp::errc::aborted, "timeout or aborted");
          for (char const* part : {"no answer within 600 ms", "exchanges and barriers entered by rank:"})
            v.expect(o.says(part), part + std::string(" in: ") + o.what);
          v.expect(o.says("in " + name) || (name == "ring" && o.says("in barrier")), "the name of the operation");
          if (r != 1) v.seconds = std::max(v.seconds, o.seconds);
          // in a ring of four, rank 1's neighbour may be late first
          if (o.code == sp::errc::timeout && (size == 2 || name != "ring"))
            v.expect(o.peer == 1 && o.says("from rank 1") && o.says("(silent)"), std::string("rank 1 is named: ") + o.what);
        }
        v.expect(v.seconds >= std::chrono::duration<double>(deadline).count(), "nobody gives up before the deadline");
        return v;
      };
      CHECK_MESSAGE(within(deadline + deadline / 10, attempt), name << " of " << size);
    }
}

TEST_CASE("mpi faults F5: an abort from another thread at any time ends everybody with its reason") {
  for (int round = 0; round < 12; ++round) {
    auto const all = outcomes(3, [&](sp::mpi const& c) {
      std::optional<std::thread> outside;
      if (c.rank() == 0)
        outside.emplace([&c, round] {
          std::this_thread::sleep_for(std::chrono::microseconds(300 * round));
          c.abort({sp::errc::backend_error, "the power went", "Buy a battery"});
        });
      try {
        auto half = c.split(c.rank() % 2, 0);
        for (int k = 0;; ++k) step(c, half, k);
      } catch (sp::error const&) {
        if (outside) outside->join();
        throw;
      }
    });
    CHECK(count_code(all, sp::errc::aborted) == 3);
    for (auto const& o : all) {
      CHECK(o.says("the power went"));
      CHECK(o.peer == 0);
    }
  }
}

TEST_CASE("mpi faults: counts that differ are told to both sides with both numbers") {
  for (int sent : {0, 3, 8, 30000})
    for (int expected : {0, 5, 40000}) {
      if (sent == expected) continue;
      std::vector<int> in(std::size_t(expected), 1), out(std::size_t(sent), 1);
      auto const ranks = outcomes(3, [&](sp::mpi const& c) {
        piece const a = sp::as_piece(all(out)), b = sp::as_piece(all(in));
        parcel const to{1, {&a, 1}}, from{0, {&b, 1}};
        if (c.rank() == 0) c.exchange({"x", {&to, 1}, {}}).wait();
        if (c.rank() == 1) c.exchange({"x", {}, {&from, 1}}).wait();
        if (c.rank() == 2) c.exchange({"x", {}, {}}).wait();
        // where one side says nothing, its next call shows it
        ring_step s(c.rank(), 3, 1);
        c.exchange(s.traffic("x")).wait();
        c.barrier();
      });
      std::string const numbers =
          "rank 0 sends " + std::to_string(4 * sent) + " bytes, rank 1 expects " + std::to_string(4 * expected);
      CHECK(count_code(ranks, sp::errc::short_message) == 2);
      for (int r : {0, 1}) {
        outcome const& o = ranks[std::size_t(r)];
        CHECK_MESSAGE(o.says(numbers), o.what);
        CHECK(o.rank == r);
        CHECK(o.peer == 1 - r);
      }
      CHECK(ranks[2].code == sp::errc::aborted);
      CHECK(ranks[2].says(numbers));
    }
}

TEST_CASE("mpi faults: a peer that went on without sending, or without receiving, is found before the deadline") {
  for (int n : {20, 9000})
    for (bool receiver_waits : {true, false}) {
      auto const ranks = outcomes(2, [&](sp::mpi const& c) {
        std::vector<int> data(std::size_t(n), 1);
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
      for (auto const& o : ranks) {
        CHECK(o.code == sp::errc::short_message);
        CHECK_MESSAGE(o.says(std::to_string(4 * n)), o.what);
        CHECK_MESSAGE(o.says(receiver_waits ? "rank 1 sends 0 bytes" : "rank 1 expects 0"), o.what);
        CHECK(o.seconds < 10);
      }
    }
}

TEST_CASE("mpi faults: different primitives at one time are told apart, in exchanges and in barriers") {
  for (int n : {1, 9000}) {
    auto const ranks = outcomes(2, [&](sp::mpi const& c) {
      everybody x(c.rank(), 2, 0, [n](int, int) { return n; });
      c.exchange(x.traffic(c.rank() == 0 ? "forward" : "backward")).wait();
    });
    CHECK(count_code(ranks, sp::errc::rank_mismatch) == 2);
    for (auto const& o : ranks) {
      CHECK(o.says("in forward"));
      CHECK(o.says("in backward"));
    }
  }
  for (int size : {2, 4})
    for (int odd = 0; odd < size; ++odd) {
      auto const ranks = outcomes(size, [&](sp::mpi const& c) {
        if (c.rank() == odd)
          static_cast<void>(c.split(0, 0));
        else
          c.barrier();
      });
      CHECK(count_code(ranks, sp::errc::rank_mismatch) >= 2);
      for (auto const& o : ranks) CHECK_MESSAGE((o.failed && o.says("in split") && o.says("in barrier")), o.what);
    }
}

TEST_CASE("mpi faults: other numbers in the options of one rank are refused by all") {
  auto const ranks = outcomes(3, [](sp::mpi const&) { FAIL_CHECK("the communicator was made"); },
                              {.deadline = 30s, .largest_message = process() == 1 ? 4096 : 8192});
  CHECK(count_code(ranks, sp::errc::rank_mismatch) >= 2); // the third may hear of it before it sees for itself
  for (auto const& o : ranks) CHECK((o.failed && o.says("4096") && o.says("8192")));
}

TEST_CASE("mpi faults: a rank that does not construct its communicator is a timeout for the others") {
  MPI_Comm mine = MPI_COMM_NULL; // of its own: what is half made may still be finished late
  if (process() < 2) MPI_Comm_dup(first(2), &mine);
  first(2);
  bool told = false;
  if (process() == 0) told = says(failure_of([&] { sp::mpi c(mine, {.deadline = 200ms}); }), sp::errc::timeout, "within 200 ms");
  if (process() == 1) {
    std::this_thread::sleep_for(400ms);
    told = says(failure_of([&] { sp::mpi c(mine, {.deadline = 200ms}); }), sp::errc::timeout, "200 ms");
  }
  CHECK(sum_over_all(told) == 2);
}

TEST_CASE("mpi faults: an error of MPI is told with MPI's own code and text, and ends the family") {
  struct {
    sp::errc code{};
    bool text = false;
  } mine;
  if (MPI_Comm const comm = first(3); comm != MPI_COMM_NULL) {
    std::shared_ptr<sp::detail::mpi_group> group;
    auto const e = failure_of([&] { // rank 1 may have failed before the others have left the construction
      group = sp::detail::mpi_group::world_of(comm, patient);
      if (group->rank() == 1) group->family().link().send(99, sp::detail::mpi_control{}); // there is no rank 99
      while (true) group->barrier("barrier");
    });
    mine.code = e.code;
    mine.text = has(e.problem, "MPI_Isend failed, MPI error " + std::to_string(MPI_ERR_RANK) + ": ") && has(e.problem, "rank");
    if (group) CHECK(failure_of([&] { group->barrier("barrier"); }).code == sp::errc::aborted);
  }
  auto const told = shared_by_all(mine);
  for (std::size_t r = 0; r < 3; ++r) {
    CHECK(told[r].code == (r == 1 ? sp::errc::backend_error : sp::errc::aborted));
    CHECK(told[r].text);
  }
}

TEST_CASE("mpi faults: parcels to oneself of different bytes end the family") {
  auto const ranks = outcomes(2, [&](sp::mpi const& c) {
    ring_step s(c.rank(), 2, 7);
    parcel const own{c.rank(), s.send.pieces};
    if (c.rank() == 0)
      CHECK(says(failure_of([&] {
                   c.exchange({"x", {&own, 1}, {}}).wait();
                 }),
                 sp::errc::short_message, "sends 4 bytes", "expects 0"));
    while (true) c.barrier();
  });
  CHECK(count_code(ranks, sp::errc::aborted) == 2);
}

TEST_CASE("mpi faults: a wait that failed fails again, and so does every later operation of every group") {
  auto const ranks = outcomes(4, [&](sp::mpi const& c) {
    auto row = c.split(c.rank() / 2, 0), column = c.split(c.rank() % 2, 0);
    ring_step s(c.rank(), 4, 7);
    c.barrier();
    std::optional<sp::mpi::token> open;
    if (c.rank() == 0) open.emplace(c.exchange(s.traffic()));
    if (c.rank() == 3) row.abort({sp::errc::non_finite, "NaN in row 7", "Lower the rate"});
    if (open)
      for (int k = 0; k < 3; ++k) CHECK(failure_of([&] { open->wait(); }).code == sp::errc::aborted);
    CHECK(s.in == -1);
    std::vector<std::function<void()>> const calls{
        [&] {
          while (true) column.barrier();
        },
        [&] { column.exchange({}).wait(); },
        [&] { row.exchange({}).wait(); },
        [&] { static_cast<void>(c.split(0, 0)); },
        [&] { row.barrier(); },
    };
    for (auto const& call : calls) {
      auto const info = failure_of(call);
      CHECK(says(info, sp::errc::aborted, "rank 3 of 4", "NaN in row 7"));
      CHECK(info.peer == 3);
    }
    c.exchange({}).wait();
  });
  CHECK(count_code(ranks, sp::errc::aborted) == 4);
}

TEST_CASE("mpi faults: truncated and doubled messages are found by their counts") {
  for (int n : {10, 5000})
    for (bool twice : {false, true}) {
      auto const ranks = outcomes(3, [&](sp::mpi const& inner) {
        sp::chaos_options o;
        (twice ? o.duplicate_at : o.truncate_at) = inner.rank() == 1 ? 3 : -1;
        sp::chaos c(inner, o);
        for (int k = 0; k < 4; ++k) {
          everybody x(c.rank(), 3, k, [n](int, int) { return n; });
          c.exchange(x.traffic("x")).wait();
          CHECK(x.arrived());
        }
      });
      CHECK(count_code(ranks, sp::errc::short_message) == 2);
      for (auto const& o : ranks) {
        CHECK(o.says("rank 1 sends " + std::to_string(twice ? 8 * n : 4 * n - 4) + " bytes"));
        CHECK(o.says("expects " + std::to_string(4 * n)));
      }
    }
}

TEST_CASE("mpi faults: a peer that has returned is named without waiting for the deadline") {
  for (bool in_barrier : {false, true}) {
    auto const ranks = outcomes(3, [&](sp::mpi const& c) {
      if (c.rank() == 2) return;
      ring_step s(c.rank(), 3, 1);
      if (in_barrier)
        c.barrier();
      else
        c.exchange(s.traffic()).wait();
    });
    CHECK(!ranks[2].failed);
    CHECK(count_code(ranks, sp::errc::peer_failed) >= 1);
    for (int r : {0, 1}) {
      CHECK(ranks[std::size_t(r)].says("rank 2 has returned"));
      CHECK(ranks[std::size_t(r)].seconds < 10);
    }
  }
}

TEST_CASE("mpi faults: handles that an exception destroys end the family, without run()") {
  struct {
    bool told = false;
    double seconds = 0;
  } mine;
  if (MPI_Comm const comm = first(3); comm != MPI_COMM_NULL) {
    auto const begin = timer::now();
    try {
      sp::mpi c(comm, patient);
      auto half = c.split(c.rank() % 2, 0);
      if (c.rank() == 2) throw std::runtime_error("out of memory");
      for (int k = 0;; ++k) step(c, half, k);
    } catch (sp::error const& e) {
      mine.told = e.code() == sp::errc::aborted && e.info().peer == 2 && has(e.what(), "destroyed by an exception");
    } catch (std::runtime_error const& e) {
      mine.told = process() == 2 && has(e.what(), "out of memory");
    }
    mine.seconds = std::chrono::duration<double>(timer::now() - begin).count();
  }
  for (int r = 0; auto const& o : shared_by_all(mine))
    if (r++ < 3) {
      CHECK(o.told);
      CHECK(o.seconds < 10);
    }
}

TEST_CASE("mpi faults: a cause that was caught is not replaced by its consequence") {
  auto const ranks = outcomes(2, [](sp::mpi const& c) {
    ring_step s(c.rank(), 2, 7);
    try {
      auto t = c.exchange(s.traffic());
      if (c.rank() == 0) throw std::runtime_error("caught below");
      t.wait();
    } catch (std::runtime_error const&) {
    }
    while (true) c.barrier();
  });
  CHECK(count_code(ranks, sp::errc::aborted) == 2);
  for (auto const& o : ranks) {
    CHECK(o.says("without wait()"));
    CHECK(o.peer == 0);
  }
}

TEST_CASE("mpi faults: a token that dies unwaited ends the family, and nobody writes into its memory afterwards") {
  for (int n : {30, 30000, 3000000})
    for (bool unwinding : {false, true})
      for (int round = 0; round < 3; ++round) {
        std::vector<int> in(std::size_t(n), 2), out(std::size_t(n), 1);
        auto const ranks = outcomes(4, [&](sp::mpi const& c) {
          for (int k = 0;; ++k) {
            piece const a = sp::as_piece(all(out)), b = sp::as_piece(all(in));
            parcel const to{(c.rank() + 1) % 4, {&a, 1}}, from{(c.rank() + 3) % 4, {&b, 1}};
            auto t = c.exchange({"ring", {&to, 1}, {&from, 1}});
            if (c.rank() == 1 && k == round) {
              if (unwinding) throw std::runtime_error("the original");
              break;
            }
            t.wait();
          }
          // the token has died: the memory is this rank's own again
          std::fill(in.begin(), in.end(), 3);
          std::this_thread::sleep_for(20ms);
          while (true) c.barrier();
        });
        bool untouched = process() != 1 || unwinding || std::count(in.begin(), in.end(), 3) == n;
        CHECK(untouched);
        for (int r = 0; r < 4; ++r) {
          outcome const& o = ranks[std::size_t(r)];
          CHECK(o.failed);
          if (r == 1) continue;
          CHECK(o.code == sp::errc::aborted);
          CHECK(o.peer == 1);
          CHECK((unwinding ? o.says("the original") || o.says("without wait()") : o.says("without wait()")));
        }
      }
}

TEST_CASE("mpi faults: after a failure a late sender reaches nobody's memory") {
  std::vector<int> in(300000, 2), out(300000, 1);
  auto const ranks = outcomes(3, [&](sp::mpi const& c) {
    piece const a = sp::as_piece(all(out)), b = sp::as_piece(all(in));
    parcel const to{0, {&a, 1}}, from{1, {&b, 1}};
    if (c.rank() == 0) {
      auto t = c.exchange({"late", {}, {&from, 1}});
      CHECK(failure_of([&] { t.wait(); }).code == sp::errc::aborted);
      std::fill(in.begin(), in.end(), 3);
      for (int k = 0; k < 100; ++k) { // MPI moves what it can
        int any = 0;
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, first(3), &any, MPI_STATUS_IGNORE);
        std::this_thread::sleep_for(2ms);
      }
      CHECK(std::count(in.begin(), in.end(), 3) == 300000);
    }
    if (c.rank() == 1) {
      std::this_thread::sleep_for(100ms);
      c.exchange({"late", {&to, 1}, {}}).wait();
    }
    if (c.rank() == 2) {
      std::this_thread::sleep_for(20ms);
      c.abort({sp::errc::non_finite, "enough", "-"});
    }
    c.barrier();
  });
  CHECK(count_code(ranks, sp::errc::aborted) == 3);
}

TEST_CASE("mpi faults: chaos fails the n-th call of any rank, and that is what all are told") {
  for (int r = 0; r < 3; ++r)
    for (sp::index_t n = 0; n < 6; ++n) {
      auto const ranks = outcomes(3, [&](sp::mpi const& inner) {
        sp::chaos c(inner, {.seed = 3, .max_delay = 100us, .fail_at = inner.rank() == r ? n : -1});
        auto half = c.split(c.rank() % 2, 0);
        for (int k = 0; k < 3; ++k) {
          everybody x(half.rank(), half.size(), k, [](int, int) { return 3; });
          half.exchange(x.traffic("x")).wait();
          c.barrier();
        }
      });
      for (int p = 0; p < 3; ++p) {
        outcome const& o = ranks[std::size_t(p)];
        CHECK(o.code == (p == r ? sp::errc::backend_error : sp::errc::aborted));
        CHECK(o.says("call " + std::to_string(n)));
      }
    }
}

TEST_CASE("mpi faults F4: seeded delays change no bit") {
  std::vector<float> expected;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    std::vector<float> v;
    all_good(4, [&](sp::mpi const& c) { v = under_delays(c, seed, std::chrono::microseconds(seed == 0 ? 0 : 500), 2000); });
    if (expected.empty()) expected = v;
    CHECK((v.empty() || std::memcmp(expected.data(), v.data(), v.size() * sizeof(float)) == 0)); // empty: a process not asked
  }
}

} // namespace test_mpi_faults
