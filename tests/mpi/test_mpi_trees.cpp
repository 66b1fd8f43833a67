// What many processes tell each other takes messages in the logarithm of their number, and a failure reaches everybody whoever in
// between is dead or elsewhere: splits, barriers, the end of a family, and notes of failures, with every message of MPI counted.
// ranks: 16
#include "ranks.hpp"

#include <deque>
#include <optional>
#include <random>

namespace {
int messages_sent = 0, notes_sent = 0; // but queries of ranks that are slow, and their replies; notes: of failures
}
/// Counts, by the profiling interface of MPI, what this process sends.
extern "C" int MPI_Isend(void const* data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request* request) {
  using sp::detail::mpi_control;
  mpi_control head{.kind = mpi_control::cancelled};
  if (tag == sp::detail::mpi_link::control_tag && count >= int(sizeof head)) std::memcpy(&head, data, sizeof head);
  messages_sent += head.kind != mpi_control::progress_query && head.kind != mpi_control::progress_reply;
  notes_sent += head.kind == mpi_control::failure;
  return PMPI_Isend(data, count, type, to, tag, comm, request);
}

namespace test_mpi_trees {

using namespace mpi_tests;

namespace {

/// The most messages that one of the first `size` processes sends while body() runs on all of them.
template <class Body>
int most_messages(int size, Body&& body) {
  int const before = messages_sent;
  if (process() < size) body();
  int most = 0;
  for (int n : shared_by_all(messages_sent - before)) most = std::max(most, n);
  return most;
}

} // namespace

TEST_CASE("mpi trees: splits of any number of ranks give everybody the groups that colors and keys ask for") {
  for (int size : {1, 2, 3, 5, 6, 7, 8, 11, 13, 16})
    all_good(size, [&](sp::mpi const& c) {
      auto const group = c.split(c.rank() % 3 - 1, (c.rank() * 7) % 5);
      std::vector<std::pair<int, int>> expected; // key and rank of those with this color
      for (int r = c.rank() % 3; r < size; r += 3) expected.emplace_back((r * 7) % 5, r);
      std::sort(expected.begin(), expected.end());
      REQUIRE(group.size() == int(expected.size()));
      CHECK(expected[std::size_t(group.rank())].second == c.rank());
      everybody x(group.rank(), group.size(), 3, [](int, int) { return 2; });
      group.exchange(x.traffic("x")).wait();
      CHECK(x.arrived());
      group.barrier();
    });
}

TEST_CASE("mpi trees: construction, split, barrier, shared memory and the end take few messages of each rank") {
  std::optional<sp::mpi> c, half;
  std::optional<sp::mpi_shared> shared;
  std::array<int, 7> fewest; // of three rounds: a busy machine may keep one rank back, and the others tell it more then
  fewest.fill(1000);
  for (int round = 0; round < 3; ++round) {
    auto part = fewest.begin();
    auto measure = [&](auto&& body) {
      *part = std::min(*part, most_messages(processes(), body));
      ++part;
    };
    measure([&] { c.emplace(MPI_COMM_WORLD, patient); });
    measure([&] { half.emplace(c->split(c->rank() % 2, 0)); });
    measure([&] { c->barrier(); });
    measure([&] { half->barrier(); });
    measure([&] { shared.emplace(*c); });
    measure([&] { shared->publish("p", {}).release(); });
    measure([&] {
      shared.reset();
      half.reset();
      c.reset();
    });
  }
  MESSAGE("messages of one of " << processes() << " ranks, at most: construction " << fewest[0] << ", split " << fewest[1]
                                << ", barrier " << fewest[2] << ", shared memory " << fewest[4] << ", publication " << fewest[5]
                                << ", end of three groups " << fewest[6]);
  CHECK(fewest[6] <= 18);        // of a rank that 8 others hang on
  if (processes() != 16) return; // the numbers of others are for reading
  CHECK(fewest[0] == 6);         // two rounds of three
  CHECK(fewest[1] == 6);
  CHECK(fewest[2] == 6);
  CHECK(fewest[3] == 4); // among 8: three, and one
  CHECK(fewest[4] == 3 * 6);
  CHECK(fewest[5] == 2 * 6);
}

TEST_CASE("mpi trees: of any number of ranks none is done before all have returned and been answered, and then all are") {
  using sp::detail::mpi_control;
  for (int ranks : {1, 2, 3, 4, 7, 64, 1000}) {
    std::mt19937 random(static_cast<unsigned>(ranks));
    std::vector<sp::detail::mpi_termination> all;
    std::vector<bool> returned(std::size_t(ranks), false), idle(std::size_t(ranks), false);
    std::vector<int> sent(std::size_t(ranks), 0), order;
    for (int r = 0; r < ranks; ++r) {
      all.emplace_back(r, ranks);
      order.insert(order.end(), {r, r});
    }
    std::shuffle(order.begin(), order.end(), random);
    std::deque<std::pair<int, mpi_control>> under_way;
    auto advance = [&](int r) {
      auto const at = std::size_t(r);
      all[at].advance(returned[at], idle[at], [&](int to, mpi_control const& n) {
        under_way.emplace_back(to, n);
        ++sent[at];
      });
    };
    auto deliver = [&] {
      while (!under_way.empty()) {
        auto const [to, n] = under_way.front();
        under_way.pop_front();
        all[std::size_t(to)].receive(n);
        advance(to);
      }
    };
    for (std::size_t i = 0; i < order.size(); ++i) {
      auto const at = std::size_t(order[i]);
      (returned[at] ? idle : returned)[at] = true; // each returns, later it has been answered
      advance(order[i]);
      deliver();
      bool const last = i + 1 == order.size();
      CHECK(std::all_of(all.begin(), all.end(), [&](auto const& f) { return f.done() == last; }));
      CHECK(all[0].everybody_has_returned() == (std::count(returned.begin(), returned.end(), true) == ranks));
    }
    CHECK(*std::max_element(sent.begin(), sent.end()) <= 18);
  }
}

TEST_CASE(
    "mpi trees: who hears of a failure passes it on, so that all hear although the first teller and its neighbours are silent") {
  auto attempt = [] {
    sp::detail::failure f;
    f.info = {sp::errc::non_finite, "a lonely NaN", "Look"};
    f.why = "a lonely NaN";
    f.world = 0;
    timer::time_point told{}, heard{};
    auto const group = sp::detail::mpi_group::world_of(MPI_COMM_WORLD, {.deadline = 2s});
    auto const e = failure_of([&] {
      group->barrier("together"); // some are still in it when they hear
      if (process() == 0) {       // tells rank 5 only, then is silent, as if it had been killed meanwhile
        told = timer::now();
        sp::detail::send_failure(group->family().link(), 5, f, false);
      }
      if (process() < 4) std::this_thread::sleep_for(300ms);
      while (true) group->barrier("wait");
    });
    heard = timer::now();
    verdict v;
    v.expect(sum_over_all(says(e, sp::errc::aborted, "a lonely NaN")) == 16, "all have heard of the NaN");
    auto const when = shared_by_all(heard);
    told = shared_by_all(told)[0];
    for (std::size_t r = 4; r < when.size(); ++r)
      v.seconds = std::max(v.seconds, std::chrono::duration<double>(when[r] - told).count());
    return v;
  };
  CHECK(within(100ms, attempt));
}

TEST_CASE("mpi trees: who finds a failure tells everybody, so that nobody waits for ranks that are in a kernel of their own") {
  auto attempt = [] {
    auto const ranks = outcomes(16, [](sp::mpi const& c) {
      c.barrier();
      int const d = (c.rank() + 16 - 6) % 16;         // behind rank 6, which fails: those at 1, 2, 4, 8 would pass it on
      if (d == 0) std::this_thread::sleep_for(100ms); // they are asleep by then
      if (d == 0) throw std::runtime_error("fell over");
      if ((d & (d - 1)) == 0) std::this_thread::sleep_for(350ms);
      while (true) c.barrier();
    });
    double slowest = 0;
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      CHECK(ranks[r].says("fell over"));
      std::size_t const d = (r + 10) % 16;
      if ((d & (d - 1)) != 0) slowest = std::max(slowest, std::chrono::duration<double>(ranks[r].left - ranks[6].left).count());
    }
    return slowest;
  };
  CHECK(within(100ms, attempt));
}

TEST_CASE("mpi trees: ranks that give up at the same time do not all tell all others") {
  constexpr auto deadline = 800ms; // for the construction too, of 16 processes on a few cores
  auto attempt = [&] {
    int const before = notes_sent;
    auto const ranks = outcomes(16,
                                [&](sp::mpi const& c) {
                                  c.barrier();
                                  if (c.rank() == 7) std::this_thread::sleep_for(deadline + 150ms);
                                  c.barrier();
                                },
                                {.deadline = deadline});
    verdict v;
    for (auto const& o : ranks) {
      v.expect(o.code == sp::errc::timeout || o.code == sp::errc::aborted, "timeout or aborted");
      v.expect(o.says("no answer within 800 ms"), std::string("the timeout is told: ") + o.what);
      if (&o != &ranks[7]) v.seconds = std::max(v.seconds, o.seconds);
    }
    int const notes = sum_over_all(notes_sent - before), most = 16 * 4 + 5 * 15; // 4 of each rank, and all others of a few
    v.expect(notes <= most, std::to_string(notes) + " notes are at most " + std::to_string(most));
    return v;
  };
  CHECK(within(deadline + deadline / 10 + 50ms, attempt));
}

TEST_CASE("mpi trees: a rank that has returned is named soon, whether those who wait have spoken to it before or not") {
  for (int early : {0, 5, 15}) {
    auto const ranks =
        outcomes(16,
                 [&](sp::mpi const& c) {
                   if (c.rank() == early) return;
                   std::this_thread::sleep_for(c.rank() % 2 * 300ms); // the others come while it looks around, or long after it
                   piece const none = sp::as_piece(sp::view<int, 1>(nullptr, {0}));
                   std::vector<int> in(10);
                   piece const p = c.rank() % 4 == 3 ? sp::as_piece(all(in)) : none;
                   parcel const from{early, {&p, 1}};
                   c.exchange({"x", {}, {&from, 1}}).wait();
                   c.barrier();
                 },
                 {.deadline = 3s});
    for (int r = 0; r < 16; ++r) {
      outcome const& o = ranks[std::size_t(r)];
      CHECK(o.failed == (r != early));
      if (r != early) CHECK_MESSAGE(o.says("rank " + std::to_string(early) + " has returned"), o.what);
      CHECK(o.seconds < 2);
    }
  }
}

TEST_CASE("mpi trees: families end well although their ranks return at different times") {
  for (int round = 0; round < 6; ++round)
    all_good(5, [&](sp::mpi const& c) {
      everybody x(c.rank(), 5, round, [](int, int) { return 100; });
      c.exchange(x.traffic("x")).wait();
      CHECK(x.arrived());
      if (c.rank() == round) std::this_thread::sleep_for(200ms); // the others do not stay for so long
    });
}

} // namespace test_mpi_trees
