// sp::mpi_shared: processes of one machine that read and write each other's memory, and what happens when one of them fails.
// Everything published is compared value by value, where it lies in shared memory and where it was copied there.
#include "ranks.hpp"

#include <functional>

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

TEST_CASE("mpi shared: memory of the communicator is exposed where it lies, and peers may write into it") {
  shared_good(4, [](sp::mpi_shared const& c) {
    int const size = c.size();
    c.publish("warm up", {}).release();
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
      bool const here = board.tensor(0, board.tensor.extent(1) - 1) == c.rank();
      if (round > 0 && here) { // the first time it came from the heap: the window has grown for it since
        for (int r = 0; r < size; ++r) CHECK(board.tensor(r, board.tensor.extent(1) - 1) == 10 * r + c.rank());
      }
      CHECK((round == 0 || here));
      for (int v : copied) CHECK(v == -1); // never reached
    }
  });
}

TEST_CASE("mpi shared: blocks of shared memory are given back and taken again, in any order") {
  shared_good(2, [](sp::mpi_shared const& c) {
    std::vector<sp::buffer> held;
    for (int i = 0; i < 40; ++i) held.emplace_back(c.memory(), 1000 + 100 * i); // the heap, so far
    held.clear();
    c.publish("grow", {}).release();
    std::vector<std::byte const*> first;
    for (int lap = 0; lap < 3; ++lap) {
      std::vector<std::pair<std::byte*, std::size_t>> blocks;
      for (int i = 0; i < 40; ++i) {
        auto const bytes = std::size_t(1000 + 100 * i);
        auto* const data = static_cast<std::byte*>(c.memory().allocate(bytes));
        CHECK(reinterpret_cast<std::uintptr_t>(data) % sp::allocator::alignment == 0);
        for (auto const& [other, n] : blocks) CHECK((data + bytes <= other || other + n <= data));
        blocks.emplace_back(data, bytes);
        if (lap == 0) first.push_back(data);
        CHECK(data == first[std::size_t(i)]); // joined blocks serve the same requests at the same places
      }
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        auto const& [data, bytes] = blocks[(i * 7 + std::size_t(lap)) % blocks.size()];
        c.memory().deallocate(data, bytes);
      }
    }
  });
}

TEST_CASE("mpi shared: windows grow by what was in use at a time, not by all that ever was") {
  sp::detail::mpi_node_memory memory;
  sp::index_t const block = memory.block_bytes(1000);
  for (int i = 0; i < 100; ++i) memory.deallocate(memory.allocate(1000), 1000);
  CHECK(memory.wanted() == block);
  void* const one = memory.allocate(1000);
  void* const other = memory.allocate(1000);
  memory.deallocate(one, 1000);
  CHECK(memory.wanted() == 2 * block);
  memory.deallocate(other, 1000);
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

TEST_CASE("mpi shared: misuse is refused, and an exposure is released once") {
  shared_good(2, [](sp::mpi_shared const& c) {
    std::vector<sp::mpi_shared::exposure> shown;
    for (int k = 0; k < 4; ++k) shown.push_back(c.publish("p", {}));
    CHECK(says(failure_of([&] { static_cast<void>(c.publish("p", {})); }), sp::errc::bad_state, "4 exposures"));
    for (auto& e : shown) e.release();
    CHECK(says(failure_of([&] { shown[0].release(); }), sp::errc::bad_state, "already"));
    c.publish("p", {}).release(); // still in order
  });
}

TEST_CASE("mpi shared: operations that meet must be the same") {
  using operation = std::function<void(sp::mpi_shared const&)>;
  auto publish = [](char const* name) -> operation {
    return [name](sp::mpi_shared const& c) {
      int value = c.rank();
      piece const mine = sp::as_piece(sp::view<int, 1>(&value, {1}));
      auto e = c.publish(name, {&mine, 1});
      FAIL_CHECK("publish met " << e.of(1 - c.rank()).size() << " pieces");
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
  struct meeting {
    operation a, b;
    std::string one, two;
  };
  std::vector<meeting> const meetings{
      {publish("show"), barrier, "in show (publish 1)", "in barrier"},
      {publish("forward"), publish("backward"), "in forward (publish 1)", "in backward (publish 1)"},
      {split, publish("split"), "in split", "in split (publish 1)"},
      {release, publish_twice, "in show (release of publish 1)", "in show (publish 2)"},
      {release_other, release_other, "in show (release of publish 1)", "in show (release of publish 2)"},
  };
  for (auto const& m : meetings) {
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

TEST_CASE("mpi shared: an exposure that dies unreleased ends the family, and readers keep valid memory") {
  for (int round = 0; round < 3; ++round) {
    auto const ranks = shared_outcomes(3, [&](sp::mpi_shared const& c) {
      auto mine = std::make_unique<std::vector<int>>(20000, 1); // dies right after the exposure
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
                                      if (c.rank() == 2) std::this_thread::sleep_for(700ms);
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

TEST_CASE("mpi shared: before a blocking call of MPI a failure elsewhere parts nobody: all go on, or all throw at once") {
  using sp::detail::mpi_group;
  auto send = [](int to) { MPI_Send(nullptr, 0, MPI_BYTE, to, 0, first(3)); };
  auto receive = [](int from) { MPI_Recv(nullptr, 0, MPI_BYTE, from, 0, first(3), MPI_STATUS_IGNORE); };
  for (bool both : {true, false}) { // the last rank of the pair is inside when the third fails, or not yet
    auto attempt = [&] {
      auto const ranks = outcomes(3, [&](sp::mpi const& c) {
        auto const world = mpi_group::world_of(first(3), patient);
        auto const pair = world->split(c.rank() == 2, 0);
        if (c.rank() == 2) {
          receive(0), receive(1);
          world->abort({sp::errc::bad_state, "rank 2 has had enough"});
          return send(1);
        }
        auto learn = [&] { // the message of the failure has arrived, and nobody has looked at it
          send(2);
          if (c.rank() == 1) receive(2);
          std::this_thread::sleep_for(c.rank() * 50ms);
        };
        if (c.rank() == 1 && !both) learn();
        bool together = false;
        pair->operation(sp::operation_kind::publish, "meet", 0, [&] {
          if (c.rank() == 0 || both) learn();
          pair->gather_before_blocking({sp::detail::meeting::publish, "meet"}, {});
          together = true;
        });
        CHECK(together);
        pair->barrier("after");
      });
      for (std::size_t r = 0; r < 2; ++r) {
        CHECK_MESSAGE(ranks[r].says("rank 2 has had enough"), ranks[r].what);
        CHECK_MESSAGE(ranks[r].says(both ? "in after" : "in meet"), ranks[r].what);
      }
      return std::max(ranks[0].seconds, ranks[1].seconds);
    };
    CHECK(within(1s, attempt));
  }
}

TEST_CASE("mpi shared: a failure while a group makes its shared memory leaves nobody in a call of MPI") {
  for (int trial = 0; trial < 200; ++trial) {
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
    for (int r : {0, 1}) CHECK(ranks[std::size_t(r)].says("rank 2 has had enough"));
  }
}

} // namespace test_mpi_shared
