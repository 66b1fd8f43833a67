// sp::mpi_shared: processes of one machine that read and write each other's memory, and what happens when one of them fails.
// Everything published is compared value by value, where it lies in shared memory and where it was copied there.
#include "ranks.hpp"

#include <atomic>
#include <csignal>
#include <fstream>
#include <functional>
#include <string>

#include <sys/resource.h>
#include <unistd.h>

#include "support/wide.hpp"

namespace test_mpi_shared {

using namespace mpi_tests;

namespace {

/// Runs body(sp::mpi_shared const&) on the first `size` processes.
template <class Body>
std::vector<outcome> shared_outcomes(int size, Body&& body, sp::mpi_options options = patient) {
  return outcomes(
      size, [&](sp::mpi const& c) { body(sp::mpi_shared(c)); }, options);
}

template <class Body>
void shared_good(int size, Body&& body) {
  all_good(size, [&](sp::mpi const& c) { body(sp::mpi_shared(c)); });
}

} // namespace

TEST_CASE("mpi shared: published buffers are read by peers until all have released, whatever their sizes") {
  for (int size = 1; size <= processes(); ++size)
    shared_good(size, [&](sp::mpi_shared const& c) {
      for (int round = 0; round < 20; ++round) {
        std::vector<int> mine(std::size_t(round % 5 * 3000 * c.rank() + 4), 10 * c.rank() + round);
        std::vector<double> grid(35);
        for (std::size_t i = 0; i < grid.size(); ++i) grid[i] = double(i) + 100 * c.rank();
        sp::view<double, 2> const part = sp::view<double, 2>(grid.data(), {5, 7}).narrow(1, 2, 3); // strided
        std::array<piece, 3> shown{sp::as_piece(all(mine)), sp::as_piece(part), sp::as_piece(all(mine).rows(0, 0))};
        auto e = c.publish("pull", shown);
        std::vector<int> second(3, c.rank());
        piece const other = sp::as_piece(all(second));
        auto f = c.publish("again", {&other, 1});
        for (int r = 0; r < size; ++r) {
          auto const theirs = sp::as_view<int, 1>(e.of(r)[0]);
          CHECK(theirs.extent(0) == round % 5 * 3000 * r + 4);
          CHECK(theirs(0) == 10 * r + round);
          CHECK(theirs(theirs.extent(0) - 1) == 10 * r + round);
          auto const block = sp::as_view<double, 2>(e.of(r)[1]);
          CHECK(block(4, 2) == 32 + 100 * r);
          CHECK(block(0, 1) == 3 + 100 * r);
          CHECK(e.of(r)[2].bytes() == 0);
          CHECK(sp::as_view<int, 1>(f.of(r)[0])(2) == r);
        }
        e.release(); // the older one first
        f.release();
      }
    });
}

TEST_CASE("mpi shared: memory of the communicator is published where it lies, and peers may write into it") {
  shared_good(4, [](sp::mpi_shared const& c) {
    int const size = c.size();
    for (int round = 0; round < 3; ++round) {
      sp::owned<int, 2> board(c.memory(), {size, 1000});
      std::fill_n(board.tensor.data, board.tensor.elements(), -1);
      std::vector<int> copied(std::size_t(size), -1);
      std::array<piece, 2> shown{sp::as_piece(board.tensor), sp::as_piece(all(copied))};
      auto e = c.publish("board", shown);
      for (int r = 0; r < size; ++r) {
        auto const theirs = sp::as_view<int, 2>(e.of(r)[0]);
        theirs(c.rank(), theirs.extent(1) - 1) = 10 * c.rank() + r;
        sp::as_view<int, 1>(e.of(r)[1])(c.rank()) = 7;
      }
      e.release();
      for (int r = 0; r < size; ++r) CHECK(board.tensor(r, board.tensor.extent(1) - 1) == 10 * r + c.rank());
      for (int v : copied) CHECK(v == -1); // never reached
    }
  });
}

TEST_CASE("mpi shared: blocks of shared memory are given back and taken again, in any order") {
  sp::detail::mpi_node_memory memory(0, 1);
  auto* const large = static_cast<std::byte*>(memory.allocate(400000)); // all others fit beside it
  sp::index_t const bytes_at_first = memory.own_bytes();
  std::vector<std::byte const*> first;
  for (int lap = 0; lap < 3; ++lap) {
    std::vector<std::pair<std::byte*, std::size_t>> blocks;
    for (int i = 0; i < 40; ++i) {
      auto const bytes = std::size_t(1000 + 100 * i);
      auto* const data = static_cast<std::byte*>(memory.allocate(bytes));
      CHECK(reinterpret_cast<std::uintptr_t>(data) % sp::allocator::alignment == 0);
      CHECK((data + bytes <= large || large + 400000 <= data));
      for (auto const& [other, n] : blocks) CHECK((data + bytes <= other || other + n <= data));
      blocks.emplace_back(data, bytes);
      if (lap == 0) first.push_back(data);
      CHECK(data == first[std::size_t(i)]); // joined blocks serve the same requests at the same places
    }
    CHECK(memory.own_bytes() == bytes_at_first);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      auto const& [data, bytes] = blocks[(i * 7 + std::size_t(lap)) % blocks.size()];
      memory.deallocate(data, bytes);
    }
  }
  memory.deallocate(large, 400000);
}

TEST_CASE("mpi shared: what a growth leaves unused goes back to the machine, and what many releases have not needed") {
  sp::detail::mpi_node_memory memory(0, 1);
  constexpr sp::index_t mib = 1 << 20;
  auto const small = memory.take(mib / 4);
  auto const large = memory.take(8 * mib);
  CHECK(memory.segments().size() == 2);
  for (int i = 0; i < 2000; ++i) memory.give_back_unused(); // both are in use
  CHECK(memory.segments().size() == 2);
  memory.give(large, 8 * mib);
  for (int i = 0; i < memory.releases_unused; ++i) memory.give_back_unused();
  CHECK(memory.segments().size() == 2);
  memory.give_back_unused();
  CHECK(memory.segments() == std::vector<std::int32_t>{small.segment});
  auto const larger = memory.take(10 * mib);
  memory.give(larger, 10 * mib);
  memory.give(small, mib / 4);
  auto const largest = memory.take(32 * mib); // no segment that is free has room: all of them go
  CHECK(memory.segments() == std::vector<std::int32_t>{largest.segment});
  CHECK(memory.own_bytes() <= 48 * mib);
  CHECK(says(failure_of([&] { static_cast<void>(memory.allocate(~std::size_t{0})); }), sp::errc::backend_error,
             "18446744073709551615"));
  CHECK(
      says(failure_of([&] { static_cast<void>(memory.take(sp::index_t{1} << 49)); }), sp::errc::backend_error, "shared memory"));
}

TEST_CASE("mpi shared: a segment is opened if it is the one that was meant, whoever has its number now") {
  using sp::detail::shared_segment;
  auto const mine = sp::detail::segment_owner::self();
  auto const made = shared_segment::create(mine, 3, 5000);
  sp::detail::segment_problem problem;
  auto const seen = shared_segment::attach(mine, 3, made.descriptor(), problem);
  REQUIRE(seen.data() != nullptr);
  CHECK(seen.bytes() == 5000);
  CHECK(seen.data() != made.data());
  seen.data()[4999] = std::byte{7};
  CHECK(made.data()[4999] == std::byte{7});
  CHECK(!shared_segment::attach(mine, 4, made.descriptor(), problem).data());
  CHECK((problem.gone && has(problem.text, "not the memory of that rank")));
  auto other = mine; // the same pid in another pid namespace
  other.secret ^= 1;
  CHECK(!shared_segment::attach(other, 3, made.descriptor(), problem).data());
  CHECK(!shared_segment::attach(mine, 3, 1, problem).data()); // standard output
  CHECK((problem.gone && has(problem.text, "not the memory of that rank")));
  other.process = 1 << 30;
  CHECK(!shared_segment::attach(other, 3, made.descriptor(), problem).data());
  CHECK((problem.gone && has(problem.text, "No such file")));
  auto const tenth = shared_segment::create(mine, 10, 5000);
  CHECK(!shared_segment::attach(mine, 1, tenth.descriptor(), problem).data()); // its name begins like the name of segment 1
  CHECK((problem.gone && has(problem.text, "not the memory of that rank")));
}

TEST_CASE("mpi shared: a segment is the one that was meant although its owner puts others under its number meanwhile") {
  using sp::detail::shared_segment;
  auto const mine = sp::detail::segment_owner::self();
  auto const right = shared_segment::create(mine, 1, 5000), wrong = shared_segment::create(mine, 2, 7000);
  int const number = ::dup(right.descriptor());
  std::atomic<bool> done{false};
  std::atomic<int> turns{0};
  std::thread owner([&] {
    for (; !done; ++turns) ::dup2(wrong.descriptor(), number), ::dup2(right.descriptor(), number);
  });
  int others = 0;
  sp::detail::segment_problem problem;
  for (int i = 0; i < 3000 || turns < 3000; ++i) { // both have run
    auto const seen = shared_segment::attach(mine, 1, number, problem);
    others += seen.data() && seen.bytes() != 5000;
  }
  done = true;
  owner.join();
  ::close(number);
  CHECK(others == 0);
}

namespace {

/// Resident bytes of this process that are shared or of files.
long shared_resident() {
  std::ifstream status("/proc/self/status");
  long sum = 0;
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssShmem:") || line.starts_with("RssFile:")) sum += std::atol(line.c_str() + line.find(':') + 1) * 1024;
  return sum;
}
int mappings() {
  std::ifstream maps("/proc/self/maps");
  int n = 0;
  for (std::string line; std::getline(maps, line);) n += has(line, "memfd:sp-");
  return n;
}

} // namespace

TEST_CASE("mpi shared: growing publications keep as much memory as the largest needs, and the last handle gives back all") {
  constexpr std::size_t step = 32 << 10, rounds = 200;
  int const mapped_before = mappings();
  shared_good(3, [&](sp::mpi_shared const& c) {
    long const before = shared_resident();
    for (std::size_t k = 1; k <= rounds; ++k) {
      std::vector<char> data(k * step, char(k));
      piece const p = sp::as_piece(all(data));
      auto shown = c.publish("grow", {&p, 1});
      for (int r = 0; r < 3; ++r) CHECK(sp::as_view<char, 1>(shown.of(r)[0])(sp::index_t(k * step) - 1) == char(k));
      shown.release();
    }
    long const kept = shared_resident() - before;
    CHECK(kept < long(4 * rounds * step)); // 100 times the largest were kept if nothing was given back
    if (c.rank() == 0)
      MESSAGE(rounds << " growing publications, the largest of " << rounds * step << " bytes, keep " << kept << " bytes");
    CHECK(mappings() <= 3 * 3);
  });
  CHECK(mappings() == mapped_before);
}

TEST_CASE("mpi shared: groups publish among themselves, and exchanges, barriers and splits are those of sp::mpi") {
  shared_good(4, [](sp::mpi_shared const& c) {
    auto pair = c.split(c.rank() / 2, -c.rank());
    CHECK(pair.size() == 2);
    CHECK(pair.rank() == 1 - c.rank() % 2);
    CHECK(pair.world_rank() == c.rank());
    for (int round = 0; round < 5; ++round) {
      int value = 100 * round + c.rank();
      piece const p = sp::as_piece(sp::view<int, 1>(&value, {1}));
      auto inner = pair.publish("pair", {&p, 1});
      auto outer = c.publish("all", {&p, 1});
      CHECK(sp::as_view<int, 1>(inner.of(1 - pair.rank())[0])(0) == 100 * round + (c.rank() ^ 1));
      CHECK(sp::as_view<int, 1>(outer.of(3 - c.rank())[0])(0) == 100 * round + 3 - c.rank());
      ring_step s(pair.rank(), 2, c.rank());
      pair.exchange(s.traffic()).wait();
      CHECK(s.in == (c.rank() ^ 1));
      inner.release();
      outer.release();
      c.barrier();
    }
  });
}

TEST_CASE("mpi shared: misuse is refused, and a publication is released once") {
  shared_good(2, [](sp::mpi_shared const& c) {
    std::vector<sp::mpi_shared::publication> shown;
    for (int k = 0; k < 4; ++k) shown.push_back(c.publish("p", {}));
    CHECK(says(failure_of([&] { static_cast<void>(c.publish("p", {})); }), sp::errc::bad_state, "4 publications"));
    for (auto& e : shown) e.release();
    CHECK(says(failure_of([&] { shown[0].release(); }), sp::errc::bad_state, "already"));
    float x[2]{};
    sp::row_range const rows[] = {{1, 1, 1}, {0, 1, 1}};
    sp::piece listed = sp::as_piece(sp::view<float, 1>(x, {2}));
    listed.rows = rows;
    CHECK(says(failure_of([&] { static_cast<void>(c.publish("p", {&listed, 1})); }), sp::errc::bad_state, "lists its rows"));
    c.publish("p", {}).release(); // still in order
  });
}

TEST_CASE("mpi shared: operations at one time must be the same") {
  using operation = std::function<void(sp::mpi_shared const&)>;
  auto publish = [](char const* name) -> operation {
    return [name](sp::mpi_shared const& c) {
      int value = c.rank();
      piece const mine = sp::as_piece(sp::view<int, 1>(&value, {1}));
      auto e = c.publish(name, {&mine, 1});
      FAIL_CHECK("publish saw " << e.of(1 - c.rank()).size() << " pieces");
    };
  };
  operation const barrier = [](sp::mpi_shared const& c) { c.barrier(); };
  operation const split = [](sp::mpi_shared const& c) { static_cast<void>(c.split(0, 0)); };
  operation const release = [](sp::mpi_shared const& c) { c.publish("show", {}).release(); };
  operation const publish_twice = [](sp::mpi_shared const& c) {
    auto first = c.publish("show", {}), second = c.publish("show", {});
  };
  operation const release_other = [](sp::mpi_shared const& c) {
    auto first = c.publish("show", {}), second = c.publish("show", {});
    c.rank() == 0 ? first.release() : second.release();
  };
  struct operations {
    operation a, b;
    std::string one, two;
  };
  std::vector<operations> const pairs{
      {publish("show"), barrier, "in show (publish 1)", "in barrier"},
      {publish("forward"), publish("backward"), "in forward (publish 1)", "in backward (publish 1)"},
      {split, publish("split"), "in split", "in split (publish 1)"},
      {release, publish_twice, "in show (release of publish 1)", "in show (publish 2)"},
      {release_other, release_other, "in show (release of publish 1)", "in show (release of publish 2)"},
  };
  for (auto const& m : pairs) {
    auto const ranks = shared_outcomes(2, [&](sp::mpi_shared const& c) {
      c.publish("old", {}).release();
      c.rank() == 0 ? m.a(c) : m.b(c);
    });
    for (auto const& o : ranks) {
      CHECK(o.code == sp::errc::rank_mismatch);
      CHECK_MESSAGE((o.says(m.one) && o.says(m.two)), o.what);
    }
  }
}

TEST_CASE("mpi shared: a publication that dies unreleased ends the family, and readers keep valid memory") {
  for (int round = 0; round < 3; ++round) {
    auto const ranks = shared_outcomes(3, [&](sp::mpi_shared const& c) {
      auto mine = std::make_unique<std::vector<int>>(20000, 1); // dies right after the publication
      piece const p = sp::as_piece(all(*mine));
      auto shown = c.publish("pull", {&p, 1});
      if (c.rank() == 0) throw std::runtime_error("the original");
      int sum = 0;
      for (int lap = 0; lap < 20; ++lap) {
        auto const v = sp::as_view<int, 1>(shown.of(0)[0]);
        for (sp::index_t i = 0; i < v.extent(0); ++i) sum += v(i);
        std::this_thread::sleep_for(1ms);
      }
      CHECK(sum == 400000);
      shown.release();
    });
    CHECK(ranks[0].says("the original"));
    for (int r : {1, 2}) {
      CHECK(ranks[std::size_t(r)].code == sp::errc::aborted);
      CHECK(ranks[std::size_t(r)].peer == 0);
    }
  }
}

TEST_CASE("mpi shared: a rank that does not publish is named at the deadline, and a throw ends publishers at once") {
  auto const late = shared_outcomes(3,
                                    [&](sp::mpi_shared const& c) {
                                      c.barrier();
                                      if (c.rank() == 2) std::this_thread::sleep_for(1200ms);
                                      c.publish("show", {}).release();
                                    },
                                    {.deadline = 500ms});
  for (int r : {0, 1}) {
    CHECK((late[std::size_t(r)].code == sp::errc::timeout || late[std::size_t(r)].code == sp::errc::aborted));
    CHECK_MESSAGE(late[std::size_t(r)].says("from rank 2"), late[std::size_t(r)].what);
  }
  CHECK(within(100ms, [&] {
    auto const ranks = shared_outcomes(3, [&](sp::mpi_shared const& c) {
      c.barrier();
      if (c.rank() == 1) throw std::runtime_error("gone");
      while (true) c.publish("show", {}).release();
    });
    double slowest = 0;
    for (auto const& o : ranks) {
      CHECK(o.says("gone"));
      slowest = std::max(slowest, std::chrono::duration<double>(o.left - ranks[1].left).count());
    }
    return slowest;
  }));
}

TEST_CASE("mpi shared: ranks that cannot open each other's memory are told so together, and go on as processes") {
  all_good(3, [](sp::mpi const& world) {
    sp::mpi const c = world.split(0, -world.rank()); // rank 0 is world rank 2
    rlimit before{};
    ::getrlimit(RLIMIT_NOFILE, &before);
    int const next = ::dup(0);
    ::close(next);
    rlimit const one{rlim_t(next) + 1, before.rlim_max}; // the memory of this rank, and nobody else's
    if (c.rank() == 1) ::setrlimit(RLIMIT_NOFILE, &one);
    auto const e = failure_of([&] { sp::mpi_shared const shared(c); });
    ::setrlimit(RLIMIT_NOFILE, &before);
    CHECK(says(e, sp::errc::bad_state, "rank 1 cannot open the memory of rank 0",
               "rank 0 of this group is world rank 2, rank 1 is world rank 1"));
    CHECK(has(e.problem, "Too many open files") == (c.rank() == 1));
    CHECK(has(e.remedy, "on one machine"));
    sp::mpi_shared const shared(c); // nothing was left behind
    shared.publish("p", {}).release();
  });
}

TEST_CASE("mpi shared: memory that one rank does not get ends the family in its words, and run() does not throw them again") {
  auto const ranks = outcomes(2, [](sp::mpi const& world) {
    sp::mpi_shared const c(world.split(0, -world.rank()));
    char none = 0;
    piece const mine = sp::as_piece(sp::view<char, 1>(&none, {c.rank() == 0 ? sp::index_t{1} << 49 : 1}));
    auto const e = failure_of([&] { c.publish("show", {&mine, 1}).release(); });
    CHECK(says(e, c.rank() == 0 ? sp::errc::backend_error : sp::errc::aborted, "bytes of shared memory",
               "rank 0 of this group is world rank 1"));
    CHECK(e.primitive == "show");
  });
  for (auto const& r : ranks) CHECK_MESSAGE(!r.failed, r.what);
}

TEST_CASE("mpi shared: a rank that is stopped at any moment leaves nobody without an error after the deadline") {
  constexpr auto deadline = 150ms;
  auto const pids = shared_by_all(int(::getpid()));
  double longest = 0;
  for (int trial = 0; trial < (support::wide() ? 30 : 15); ++trial) {
    auto attempt = [&] {
      MPI_Comm comm = MPI_COMM_NULL; // of its own: what is half made when a rank is stopped may still be finished late
      if (process() < 3) MPI_Comm_dup(first(3), &comm);
      first(3);
      timer::time_point mine{};
      int const victim = trial % 3;
      shared_by_all(0);
      if (process() == 3) {
        std::this_thread::sleep_for(std::chrono::microseconds(trial % 5 == 0 ? 100 * trial : 997 * trial));
        ::kill(pids[std::size_t(victim)], SIGSTOP);
        mine = timer::now();
        std::this_thread::sleep_until(mine + deadline + deadline / 10 + 80ms);
        ::kill(pids[std::size_t(victim)], SIGCONT);
      } else {
        auto const e = failure_of([&] {
          sp::mpi::run(comm,
                       [&](sp::mpi const& c) {
                         for (std::size_t bytes = 64;; bytes = bytes % 0x1fffff * 3) {
                           sp::mpi_shared const shared(c);
                           std::vector<char> data(bytes);
                           piece const p = sp::as_piece(all(data));
                           for (int k = 0; k < 4; ++k) shared.publish("grow", {&p, 1}).release();
                         }
                       },
                       {.deadline = deadline});
        });
        mine = timer::now();
        CHECK((e.code == sp::errc::timeout || e.code == sp::errc::aborted));
      }
      auto const all = shared_by_all(mine);
      double slowest = 0;
      for (int r = 0; r < 3; ++r)
        if (r != victim) slowest = std::max(slowest, std::chrono::duration<double>(all[std::size_t(r)] - all[3]).count());
      longest = std::max(longest, slowest);
      return slowest;
    };
    CHECK_MESSAGE(within(deadline + deadline / 10 + 50ms, attempt), "trial " << trial);
  }
  MESSAGE("the longest from the stop to an error took " << longest << " s, of "
                                                        << std::chrono::duration<double>(deadline).count());
}

TEST_CASE("mpi shared: a failure elsewhere while a group makes its shared memory is heard by all of it") {
  for (int trial = 0; trial < 60; ++trial) {
    auto const ranks = outcomes(3, [&](sp::mpi const& world) {
      auto const pair = world.split(world.rank() == 2, 0);
      if (world.rank() == 2) {
        auto const end = timer::now() + std::chrono::microseconds(trial * 337 % 2000);
        while (timer::now() < end) continue;
        world.abort({sp::errc::bad_state, "rank 2 has had enough"});
        return;
      }
      sp::mpi_shared const c(pair);
      for (std::size_t bytes = 64;; bytes *= 2) {
        std::vector<char> data(bytes & 0xffffff);
        piece const p = sp::as_piece(all(data));
        c.publish("grow", {&p, 1}).release();
      }
    });
    for (int r : {0, 1})
      CHECK_MESSAGE(ranks[std::size_t(r)].says("rank 2 has had enough"), "rank " << r << ": " << ranks[std::size_t(r)].what);
  }
}

} // namespace test_mpi_shared
