// sp::mpi when nothing goes wrong: order, cuts, waits, groups, large parcels in many messages, sums, on 1 to 8 processes.
// All movement is compared value by value; sums are compared with those of sp::threads, bit by bit.
// ranks: 8
#include "ranks.hpp"

#include <deque>
#include <optional>
#include <random>

#include <sp/collective/reductions.hpp>
#include <sp/counting.hpp>
#include <sp/threads.hpp>

#include "collective/cases.hpp"
#include "support/allocations.hpp" // of this program's C++; MPI is C and has its own

namespace test_mpi_exchange {

using namespace mpi_tests;

namespace {
void steady_state(sp::mpi const& c) {
  auto const pair = c.split(c.rank() / 2, 0);
  auto count = [](int from, int to) { return from == to ? 40 : (from + to) % 2 ? 300 : 30000; };
  everybody x(c.rank(), 4, 0, count);
  std::vector<short> from(40000), to(40000);
  auto piece_at = [](std::vector<short>& v, sp::index_t first) {
    return sp::as_piece(sp::view<short, 1>(v.data() + first, 1000));
  };
  piece const out = sp::as_piece(sp::view<short, 2>(from.data(), {100, 100}, {400, 2})); // packed: runs of two bytes
  piece const in = sp::as_piece(sp::view<short, 2>(to.data(), {100, 100}, {400, 3}));
  parcel const send{1 - pair.rank(), {&out, 1}}, receive{1 - pair.rank(), {&in, 1}};
  // short pieces, one of which lists its rows: of one type, where MPI moves them by types
  piece several_out[] = {piece_at(from, 0), piece_at(from, 2000), sp::as_piece(sp::view<short, 2>(from.data() + 9000, {20, 50}))};
  piece several_in[] = {piece_at(to, 1500), piece_at(to, 4500), sp::as_piece(sp::view<short, 2>(to.data() + 9000, {20, 50}))};
  sp::row_range const rows[] = {{10, 1, 10}, {0, 1, 10}};
  several_out[2].rows = several_in[2].rows = rows;
  parcel const send_several{1 - pair.rank(), several_out}, receive_several{1 - pair.rank(), several_in};
  auto step = [&] {
    auto a = c.exchange(x.traffic("steady"));
    auto b = pair.exchange({"strided", {&send, 1}, {&receive, 1}});
    auto d = pair.exchange({"several", {&send_several, 1}, {&receive_several, 1}});
    b.wait();
    a.wait();
    d.wait();
    c.barrier();
  };
  int quiet = 0; // which buffers are needed first is a matter of timing, so the beginning is not judged
  for (int lap = 0; lap < 40; ++lap) {
    long const before = support::allocations_of_program;
    for (int k = 0; k < 20; ++k) step();
    quiet += support::allocations_of_program == before;
  }
  CHECK(quiet >= 10);
}
} // namespace

TEST_CASE("mpi: a steady state allocates nothing") { all_good(4, steady_state); }

TEST_CASE("mpi: everybody to everybody, ragged, empty and own parcels, small and large, 1 to 8 processes") {
  for (int size = 1; size <= processes(); ++size)
    all_good(size, [&](sp::mpi const& c) {
      CHECK(c.size() == size);
      CHECK(c.rank() == process());
      everybody_to_everybody(c);
    });
}

TEST_CASE("mpi: messages of a pair arrive in the order of the exchanges, whatever the order of waits") {
  for (int n : {10, 5000})
    for (int size : {2, 3, 5}) all_good(size, [&](sp::mpi const& c) { messages_in_order(c, n, 3); });
}

TEST_CASE("mpi: pieces are cut and strided differently on both sides, small and large") {
  for (sp::index_t wide : {2, 700}) all_good(3, [&](sp::mpi const& c) { pieces_cut_differently(c, wide); });
}

TEST_CASE("mpi: random blocks of every shape reach blocks of every other shape") {
  for (int seed = 0; seed < 40; ++seed)
    all_good(2, [&](sp::mpi const& c) {
      std::mt19937 random((unsigned(seed))); // both ranks draw the same
      sp::index_t const a = 1 + sp::index_t(random() % 9), b = 1 + sp::index_t(random() % 30),
                        d = 1 + sp::index_t(random() % 200);
      sp::index_t const pad = sp::index_t(random() % 3), count = a * b * d;
      std::vector<std::uint16_t> from(std::size_t(a * (b + pad) * (d + pad))), to(std::size_t(b * (a + pad) * d), 0xffff);
      for (std::size_t i = 0; i < from.size(); ++i) from[i] = std::uint16_t(i * 7 + unsigned(c.rank()));
      auto const source = sp::view<std::uint16_t, 3>(from.data(), {a, b + pad, d + pad}).narrow(1, 0, b).narrow(2, 0, d);
      auto const target = sp::view<std::uint16_t, 3>(to.data(), {b, a + pad, d}).narrow(1, 0, a);
      sp::index_t const cut = sp::index_t(random() % std::uint64_t(b + 1));
      std::array<piece, 1> out{sp::as_piece(source)};
      std::array<piece, 2> in{sp::as_piece(target.narrow(0, 0, cut)), sp::as_piece(target.narrow(0, cut, b - cut))};
      sp::index_t const turn = seed % 2 ? sp::index_t(random() % std::uint64_t(a)) : 0, half = cut / 2;
      sp::row_range const turned[] = {{turn, 1, a - turn}, {0, 1, turn}},
                          back[] = {{cut - 1, -1, cut - half}, {half - 1, -1, half}};
      if (turn > 0) out[0].rows = turned;         // lists of rows: those in front go last
      if (seed % 2 && cut > 0) in[0].rows = back; // from the last to the first
      parcel const send{1 - c.rank(), out}, receive{1 - c.rank(), in};
      c.exchange({"shapes", {&send, 1}, {&receive, 1}}).wait();
      bool good = true;
      for (sp::index_t i = 0; i < count; ++i) {
        sp::index_t const flat = (((i / (b * d) + turn) % a) * (b + pad) + i / d % b) * (d + pad) + i % d;
        sp::index_t const row = i / (a * d), lands = seed % 2 && row < cut ? cut - 1 - row : row;
        good = good && target(lands, i / d % a, i % d) == std::uint16_t(flat * 7 + 1 - c.rank());
      }
      CHECK_MESSAGE(good, "seed " << seed << ": " << a << " x " << b << " x " << d << " + " << pad);
    });
}

TEST_CASE("mpi: ranks may differ in how large parcels move") {
  bool const owns = process() % 2 == 0;
  sp::mpi_options const o{.deadline = 30s,
                          .large_parcels = owns ? sp::mpi_options::parcels::owned : sp::mpi_options::parcels::direct};
  auto const ranks = outcomes(
      3,
      [&](sp::mpi const& c) {
        for (int n : {2000, 80000, 400000}) { // less than a chunk of 256 KiB, two, more than are under way
          everybody e(c.rank(), 3, n % 7, [n](int from, int to) { return n + from + 2 * to; });
          c.exchange(e.traffic("mixed")).wait();
          CHECK(e.arrived());
        }
      },
      o);
  for (auto const& r : ranks) CHECK_MESSAGE(!r.failed, r.what);
  for (auto deadline : {1s, 3600s}) // direct is never chosen for a program that has not asked for it
    CHECK(sp::mpi_options{.deadline = deadline}.owns_large_parcels());
}

TEST_CASE("mpi: parcels beyond eager_limit and beyond a message travel in several messages") {
  for (sp::index_t eager : {sp::index_t{0}, sp::index_t{64}, sp::index_t{100000}})
    for (sp::index_t message : {sp::index_t{1}, sp::index_t{1000}, sp::index_t{4096}})
      all_good(3,
               [&](sp::mpi const& c) {
                 for (int n : {1, 16, 17, 250, 256, 257}) {
                   auto count = [n](int from, int to) { return n * (1 + (from + to) % 2); };
                   everybody e(c.rank(), c.size(), n % 50, count);
                   c.exchange(e.traffic("chunks")).wait();
                   CHECK(e.arrived());
                   // every second of 3 n ints to every third of 5 n
                   std::vector<int> from(std::size_t(6 * n)), to(std::size_t(9 * n), -1);
                   for (std::size_t i = 0; i < from.size(); ++i) from[i] = int(i) * 3 + c.rank();
                   piece const out = sp::as_piece(sp::view<int, 1>(from.data(), {3 * n}, {2}));
                   piece const in = sp::as_piece(sp::view<int, 1>(to.data(), {3 * n}, {3}));
                   parcel const send{(c.rank() + 1) % 3, {&out, 1}}, receive{(c.rank() + 2) % 3, {&in, 1}};
                   c.exchange({"strided", {&send, 1}, {&receive, 1}}).wait();
                   bool good = true;
                   for (int i = 0; i < 9 * n; ++i)
                     good = good && to[std::size_t(i)] == (i % 3 == 0 ? i / 3 * 6 + (c.rank() + 2) % 3 : -1);
                   CHECK(good);
                 }
               },
               {.deadline = 30s, .eager_limit = eager, .largest_message = message});
}

TEST_CASE("mpi: a wait needs no more of a peer than that it entered the same exchange and is inside the library") {
  for (int n : {5, 100000})
    all_good(2, [&](sp::mpi const& c) {
      auto const group = c.split(0, 0);
      std::vector<int> big(std::size_t(n), c.rank()), got(std::size_t(n), -1);
      piece const out = sp::as_piece(all(big)), in = sp::as_piece(all(got));
      parcel const send{1 - c.rank(), {&out, 1}}, receive{1 - c.rank(), {&in, 1}};
      auto token = c.exchange({"help", {&send, 1}, {&receive, 1}});
      if (c.rank() == 1) group.barrier(); // rank 0 comes there after its wait only
      token.wait();
      if (c.rank() == 0) group.barrier();
      CHECK(std::count(got.begin(), got.end(), 1 - c.rank()) == n);
    });
}

TEST_CASE("mpi: sub-groups in both orders, used at the same time, with exchanges of other groups under way") {
  for (int size : {1, 2, 4, 6, 8}) all_good(size, groups_in_both_orders<sp::mpi>);
}

TEST_CASE("mpi: equal keys keep the order of ranks, colors may be any number, groups split again and outlive their parents") {
  all_good(6, groups_of_groups<sp::mpi>);
}

TEST_CASE("mpi: nobody leaves a barrier before everybody has come") {
  for (int size : {1, 2, 3, 5, 8}) {
    int const last = size - 1;
    all_good(size, [&](sp::mpi const& c) {
      for (int round = 0; round < 5; ++round) {
        struct {
          timer::time_point entered, left;
        } mine{}, all[8];
        if (c.rank() == (round % 2 ? last : 0)) std::this_thread::sleep_for(5ms);
        mine.entered = timer::now();
        c.barrier();
        mine.left = timer::now();
        MPI_Allgather(&mine, int(sizeof mine), MPI_BYTE, all, int(sizeof mine), MPI_BYTE, first(size));
        for (int a = 0; a < size; ++a)
          for (int b = 0; b < size; ++b) CHECK(all[a].left >= all[b].entered);
      }
    });
  }
}

TEST_CASE("mpi: communicators of the same processes do not hear each other, and a handle may come late to its end") {
  all_good(4, [](sp::mpi const& c) {
    MPI_Comm const comm = first(4);
    std::vector<sp::mpi> others;
    for (int k = 0; k < 5; ++k) others.emplace_back(comm, patient);
    for (int round = 0; round < 10; ++round)
      for (std::size_t k = 0; k < others.size(); ++k) {
        ring_step s(c.rank(), 4, int(k) * 10 + c.rank());
        auto t = others[k].exchange(s.traffic());
        others[(k + 1) % others.size()].barrier();
        t.wait();
        CHECK(s.in == int(k) * 10 + (c.rank() + 3) % 4);
      }
    others.pop_back();
    if (c.rank() == 2) std::this_thread::sleep_for(120ms); // longer than the others wait for it
    others.erase(others.begin());
    others.emplace_back(comm, patient);
    others.back().barrier();
    others.front().barrier();
  });
}

TEST_CASE("mpi: misuse is refused before anything is sent") {
  all_good(2, [](sp::mpi const& c) {
    ring_step s(c.rank(), 2, 7);
    parcel const wrong{2, s.send.pieces}, twice[2]{s.send, s.send};
    CHECK(says(failure_of([&] { c.exchange({"x", {&wrong, 1}, {}}).wait(); }), sp::errc::bad_state, "peer 2"));
    CHECK(says(failure_of([&] { c.exchange({"x", twice, {}}).wait(); }), sp::errc::bad_state, "two parcels"));

    auto token = c.exchange(s.traffic());
    token.wait();
    CHECK(says(failure_of([&] { token.wait(); }), sp::errc::bad_state, "already"));
    CHECK(s.in == 7);

    std::deque<ring_step> steps;
    std::vector<sp::mpi::token> open;
    for (int k = 0; k < 8; ++k) open.push_back(c.exchange(steps.emplace_back(c.rank(), 2, k).traffic()));
    CHECK(says(failure_of([&] { c.exchange(s.traffic()).wait(); }), sp::errc::bad_state, "8 exchanges are open"));
    for (auto& t : open) t.wait();
    CHECK(steps[7].in == 7);

    // One token stays open for long: what comes behind it is neither refused nor held up.
    ring_step late(c.rank(), 2, 70);
    auto patient_token = c.exchange(late.traffic());
    for (int k = 0; k < 100; ++k) {
      ring_step next(c.rank(), 2, k);
      c.exchange(next.traffic()).wait();
      CHECK(next.in == k);
    }
    patient_token.wait();
    CHECK(late.in == 70);

    // A rank is ahead by two exchanges that its peer has not entered, with seven empty ones between them.
    auto const beside = c.split(0, c.rank());
    ring_step first(c.rank(), 2, 5), ninth(c.rank(), 2, 6);
    if (c.rank() == 1) beside.barrier();
    auto oldest = c.exchange(first.traffic());
    for (int k = 0; k < 7; ++k) c.exchange({"ring", {}, {}}).wait();
    auto newest = c.exchange(ninth.traffic());
    if (c.rank() == 0) beside.barrier();
    newest.wait();
    oldest.wait();
    CHECK((first.in == 5 && ninth.in == 6));
    c.exchange(s.traffic()).wait(); // still in order
    CHECK(s.in == 7);
  });
  CHECK(says(failure_of([] { sp::mpi c(MPI_COMM_NULL); }), sp::errc::bad_state, "MPI_COMM_NULL"));
  for (auto deadline : {0ms, -5ms, std::chrono::milliseconds::max()}) {
    auto const e = failure_of([&] { sp::mpi c(MPI_COMM_WORLD, {.deadline = deadline}); });
    CHECK(says(e, sp::errc::bad_state, "a deadline of " + std::to_string(deadline.count()) + " ms"));
  }
  CHECK(says(failure_of([] { sp::mpi c(MPI_COMM_WORLD, {.largest_message = 0}); }), sp::errc::bad_state, "messages of 0"));
  CHECK(says(failure_of([] { sp::mpi c(MPI_COMM_WORLD, {.eager_limit = sp::index_t{1} << 31}); }), sp::errc::bad_state,
             "2147483648"));
}

namespace {

/// all_reduce, reduce_scatter and broadcast of awkward floats, as one list of bits.
template <class Comm>
std::vector<float> sums(Comm const& c, int n) {
  sp::pool scratch;
  std::vector<float> v((std::size_t(n))), given(std::size_t(n), 0);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = float(c.rank() * 1000 + 1) / float(i + 3);
  given = v;
  sp::all_reduce(c, all(v), scratch);
  std::vector<sp::view<float, 1>> parts;
  for (int r = 0; r < c.size(); ++r) {
    sp::index_t const from = sp::cut(n, r, c.size()), to = sp::cut(n, r + 1, c.size());
    parts.push_back(all(given).narrow(0, from, to - from));
  }
  std::vector<float> mine(std::size_t(parts[std::size_t(c.rank())].extent(0)));
  sp::reduce_scatter(c, parts, all(mine), scratch);
  v.insert(v.end(), mine.begin(), mine.end());
  std::vector<float> sent(std::size_t(n), float(c.rank()) + 0.1f);
  piece const p = sp::as_piece(all(sent));
  sp::broadcast(c, {&p, 1}, c.size() - 1);
  v.insert(v.end(), sent.begin(), sent.end());
  return v;
}

} // namespace

TEST_CASE("mpi: sums and broadcasts have the bits that threads give, and the ledger counts the same bytes") {
  for (int size : {1, 2, 3, 5, 8})
    for (int n : {7, 256, 3001}) {
      std::vector<std::vector<float>> expected((std::size_t(size)));
      std::vector<sp::ledger> counted((std::size_t(size)));
      sp::threads::run(size,
                       [&](sp::threads const& c) {
                         auto const r = std::size_t(c.rank());
                         expected[r] = sums(sp::counting(c, counted[r]), n);
                       },
                       {.deadline = 30s});
      all_good(size, [&](sp::mpi const& c) {
        sp::ledger mine;
        auto const got = sums(sp::counting(c, mine), n);
        auto const& want = expected[std::size_t(c.rank())];
        CHECK(got.size() == want.size());
        CHECK(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)) == 0);
        CHECK(mine.entries() == counted[std::size_t(c.rank())].entries());
      });
    }
}

} // namespace test_mpi_exchange
