// sp::nccl over a fake of NCCL: what moves, in how many messages and groups, and how each failure is told.
// No device and no NCCL is involved; the fake's rules are NCCL's.
// needs: context cuda nccl
#include <doctest/doctest.h>

#include <barrier>
#include <numeric>
#include <stdexcept>

#include "support/nccl_ranks.hpp"

#include <sp/collective/reductions.hpp>
#include <sp/layout/route_exchange.hpp>
#include <sp/mesh/mesh.hpp>

#include "support/failure.hpp"

namespace test_nccl {

using sp::device_memory;
using sp::errc;
using sp::index_t;
using sp::nccl;
using std::chrono::milliseconds;
using support::failure_of;
using support::nccl_run;
using support::run_nccl;

using place = support::nccl_place;

/// Rank `part` sends rows to everybody by a rule of both ranks; rows come from both ends of its tensor.
index_t rows_between(int from, int to) { return (from * 3 + to * 5) % 4; }
sp::route ragged(int part, int parts, index_t rows) {
  auto listed = [&](bool sends) {
    return [=](int p, auto add) {
      index_t const n = sends ? rows_between(part, p) : rows_between(p, part);
      index_t before = 0;
      for (int q = 0; q < p; ++q) before += sends ? 0 : rows_between(q, part);
      if (sends)
        add(0, 1, n - (n > 0)), add(8, 1, n > 0); // the first ones and the last, the same for some
      else
        add(before + n - 1, -1, n); // in the other order
    };
  };
  return sp::route::of_rows(part, parts, rows, rows * 4, listed(true), listed(false));
}

/// For families that must not need any.
struct no_memory final : sp::basic_allocator<device_memory> {
  void* allocate(std::size_t) override {
    throw std::logic_error("messages of a route took other memory than the call's scratch");
  }
  void deallocate(void*, std::size_t) noexcept override {}
};

TEST_CASE("nccl: rows move along routes, packed in scratch, in one group with a message for each peer and tensor [asan]") {
  no_memory none;
  nccl_run run;
  run.options.memory = &none;
  for (int ranks = 1; ranks <= 5; ++ranks) {
    run.seed = unsigned(ranks);
    run_nccl(
        ranks,
        [&](nccl const& c, ncclComm_t comm) {
          place here(c);
          int const me = c.rank();
          sp::route const along = ragged(me, ranks, 9);
          auto const x = here.tensor<float>(9, 3, float(100 * me));
          auto const y = here.tensor<double>(9, 2, double(1000 * me));
          auto const to_x = here.tensor<float>(36, 3, -500), untouched = here.tensor<float>(36, 3, -500);
          auto const to_y = here.tensor<double>(36, 2, -500);
          auto const before = fake_nccl::given(comm);
          index_t const bytes = sp::exchange_scratch(c, here.queue, sp::routed(along, x.tensor, to_x.tensor),
                                                     sp::routed(along, y.tensor, to_y.tensor));
          sp::owned<char, 1, device_memory> const room(here.pool, {bytes});
          sp::basic_workspace<device_memory> exact(room.tensor.data, std::size_t(bytes));
          sp::exchange(c, "test", sp::context(here.queue, exact, exact), sp::routed(along, x.tensor, to_x.tensor),
                       sp::routed(along, y.tensor, to_y.tensor))
              .wait();
          auto const got_x = here.read(to_x.tensor), as_before = here.read(untouched.tensor);
          auto const got_y = here.read(to_y.tensor);
          auto const after = fake_nccl::given(comm);
          index_t first = 0, sent = 0, received = 0;
          for (int p = 0; p < ranks; ++p) {
            index_t const n = rows_between(p, me);
            for (index_t i = 0; i < n; ++i)
              for (index_t d = 0; d < 3; ++d) {
                index_t const row = first + n - 1 - i, from = i == n - 1 ? 8 : i;
                CHECK(got_x[std::size_t(row * 3 + d)] == float(100 * p) + float(from * 3 + d));
                if (d < 2) CHECK(got_y[std::size_t(row * 2 + d)] == double(1000 * p) + double(from * 2 + d));
              }
            first += n;
            if (p == me) continue;
            sent += rows_between(me, p) > 0, received += n > 0;
          }
          for (std::size_t i = std::size_t(first * 3); i < got_x.size(); ++i) CHECK(got_x[i] == as_before[i]);
          CHECK(after.sends - before.sends == 2 * sent); // two tensors, and nobody without rows
          CHECK(after.receives - before.receives == 2 * received);
          CHECK(after.groups - before.groups == (sent + received > 0));
        },
        run);
  }
}

/// Parcels of a rank, and what they are of.
struct rank_parcels {
  sp::owned<float, 2, device_memory> of;
  std::vector<sp::piece> pieces[8]{};
  std::vector<sp::parcel> parcels{};
};

TEST_CASE("nccl: parcels of any pieces are one message each, packed in memory that is kept [asan]") {
  constexpr int ranks = 4;
  std::barrier together(ranks);
  int blocks[3]{};
  run_nccl(ranks, [&](nccl const& c, ncclComm_t comm) {
    place here(c);
    int const me = c.rank();
    for (int again = 0; again < 3; ++again) {
      rank_parcels out{here.tensor<float>(ranks * 4, 5, float(100 * me))}, in{here.tensor<float>(ranks * 4, 5, -1)};
      for (int p = 0; p < ranks; ++p) {
        int const n = (me + p) % 3; // as much both ways
        out.pieces[std::size_t(p)] = {sp::as_piece(out.of.tensor.rows(4 * p, n).narrow(1, 1, 3))};
        in.pieces[std::size_t(p)] = {sp::as_piece(in.of.tensor.rows(4 * p, 1).narrow(1, 0, n > 0 ? 3 : 0)),
                                     sp::as_piece(in.of.tensor.rows(4 * p + 1, n > 1 ? 3 : 0).narrow(1, 2, 1))};
        out.parcels.push_back({p, out.pieces[std::size_t(p)]});
        in.parcels.push_back({p, in.pieces[std::size_t(p)]});
      }
      auto const before = fake_nccl::given(comm);
      sp::exchange(c, sp::traffic{"test", out.parcels, in.parcels}, here.queue).wait();
      together.arrive_and_wait();
      if (me == 0) blocks[again] = fake_cuda::alive().blocks;
      together.arrive_and_wait();
      auto const got = here.read(in.of.tensor);
      auto const after = fake_nccl::given(comm);
      int messages = 0;
      for (int p = 0; p < ranks; ++p) {
        int const n = (me + p) % 3;
        auto sent = [&](int i) { return float(100 * p + (4 * me + i / 3) * 5 + 1 + i % 3); }; // by p, in order
        auto at = [&](int row, int column) { return got[std::size_t((4 * p + row) * 5 + column)]; };
        for (int i = 0; i < 3 * n; ++i) CHECK((i < 3 ? at(0, i) : at(1 + i - 3, 2)) == sent(i));
        messages += p != me && n > 0;
      }
      CHECK(after.sends - before.sends == messages);
      CHECK(after.receives - before.receives == messages);
      CHECK(after.groups - before.groups == 1);
      together.arrive_and_wait();
    }
  });
  CHECK(blocks[1] == blocks[0]);
  CHECK(blocks[2] == blocks[0]);
}

/// Everybody's rows, n of rank r at its place in a tensor of all.
void gather_rows(nccl const& c, place& here, std::vector<index_t> const& n, bool in_place) {
  index_t total = 0, mine = 0;
  for (int r = 0; r < c.size(); ++r) {
    if (r == c.rank()) mine = total;
    total += n[std::size_t(r)];
  }
  auto const all = here.tensor<float>(total, 3, -1000),
             own = here.tensor<float>(n[std::size_t(c.rank())], 3, float(10 * c.rank()));
  auto const own_place = all.tensor.rows(mine, own.tensor.extent(0));
  if (in_place) sp::assign(here.queue, own_place, own.tensor);
  sp::piece const sent = sp::as_piece(in_place ? own_place : own.tensor);
  std::vector<sp::piece> pieces;
  index_t at = 0;
  for (index_t rows : n) pieces.push_back(sp::as_piece(all.tensor.rows(at, rows))), at += rows;
  std::vector<sp::parcel> receives;
  for (int r = 0; r < c.size(); ++r)
    receives.push_back({r, {&pieces[std::size_t(r)], in_place && r == c.rank() ? std::size_t(0) : std::size_t(1)}});
  sp::all_gather_v(c, "test", {&sent, 1}, receives, *here.ctx.lists, here.queue).wait();
  auto const got = here.read(all.tensor);
  std::size_t i = 0;
  for (int r = 0; r < c.size(); ++r)
    for (index_t k = 0; k < 3 * n[std::size_t(r)]; ++k) CHECK(got[i++] == float(10 * r) + float(k));
}

TEST_CASE("nccl: equal parts of everybody are gathered in one call, others and those of groups as messages [asan]") {
  constexpr int ranks = 4;
  run_nccl(
      ranks,
      [&](nccl const& c, ncclComm_t comm) {
        place here(c);
        auto counted = [&](nccl const& ranks_of, std::vector<index_t> const& n, bool in_place) {
          auto const before = fake_nccl::given(comm);
          gather_rows(ranks_of, here, n, in_place);
          auto after = fake_nccl::given(comm);
          return std::pair(after.gathers - before.gathers, after.sends - before.sends);
        };
        CHECK(counted(c, {2, 2, 2, 2}, false) == std::pair(1, 0));
        CHECK(counted(c, {2, 2, 2, 2}, true) == std::pair(1, 0));
        CHECK(counted(c, {2, 2, 3, 2}, false) == std::pair(0, 3));
        CHECK(counted(c, {0, 2, 0, 2}, true) == std::pair(0, c.rank() % 2 ? 3 : 0));
        nccl const pair = c.split(c.rank() / 2, 0);
        CHECK(counted(pair, {2, 2}, false) == std::pair(0, 1));
        nccl const turned = c.split(0, -c.rank());
        CHECK(turned.rank() == 3 - c.rank());
        CHECK(counted(turned, {2, 2, 2, 2}, false) == std::pair(0, 3)); // blocks stand in the order of the communicator's ranks
      },
      {.seed = 5, .how = support::interleaving::lane_last});
}

TEST_CASE("nccl: groups of a mesh send over the one communicator, sums are those of the fallbacks [asan]") {
  constexpr int ranks = 6;
  run_nccl(ranks,
           [&](nccl const& c, ncclComm_t comm) {
             sp::mesh const mesh{sp::axis::ring{2}, sp::axis::ulysses{3}};
             auto const ring = mesh.ring(c);
             auto const ulysses = mesh.ulysses(c);
             CHECK(ring.size() == 2);
             CHECK(ulysses.size() == 3);
             place here(c);
             auto reduced = [&](auto const& group, std::vector<int> const& members, index_t n) {
               auto const x = here.tensor<float>(1, n, 0.1F * float(c.rank()));
               sp::all_reduce(group, sp::view<float, 1, device_memory>(x.tensor.data, {n}), here.ctx).wait();
               auto const got = here.read(x.tensor);
               for (index_t i = 0; i < n; ++i) {
                 auto value = [&](int r) { return float(0.1F * float(r)) + float(i); };
                 CHECK(got[std::size_t(i)] == doctest::Approx(std::accumulate(members.begin(), members.end(), 0.0,
                                                                              [&](double s, int r) { return s + value(r); })));
               }
             };
             std::vector<int> const on_ring = mesh.members(c.rank(), {sp::axis_kind::ring}),
                                    on_ulysses = mesh.members(c.rank(), {sp::axis_kind::ulysses});
             reduced(ring, on_ring, 7);
             reduced(ulysses, on_ulysses, 600); // as parts
             reduced(ring, on_ring, 600);
             sp::barrier(ulysses, here.ctx).wait();
             auto const x = here.tensor<int>(2, 3, 100 * c.rank());
             sp::piece const all = sp::as_piece(x.tensor);
             sp::broadcast(ulysses, {&all, 1}, 1, here.queue).wait();
             CHECK(here.read(x.tensor)[5] == 100 * (c.rank() / 3 * 3 + 1) + 5);
             CHECK(c.world_size() == ranks);
             CHECK(ulysses.inner().world_rank() == c.rank());
             CHECK(fake_nccl::is_alive(comm));
           },
           {.seed = 9});
}

} // namespace test_nccl
