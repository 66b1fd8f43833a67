// What every communicator passes, be its ranks threads or processes: each case runs on one rank, and checks what this rank sees.
// All movement is compared value by value.
#pragma once

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include <sp/collective/decorators/chaos.hpp>
#include <sp/collective/reductions.hpp>

#include "collective/pieces.hpp"

namespace collective_tests {

/// Ragged, empty and own parcels, in every third exchange large ones.
template <class C>
void everybody_to_everybody(C const& c) {
  for (int round = 0; round < 15; ++round) {
    auto count = [&](int from, int to) { return (from * 3 + to * 5 + round) % 4 * (round % 3 == 2 ? 3000 : 7); };
    everybody e(c.rank(), c.size(), round, count);
    auto t = c.exchange(e.traffic("all"));
    t.wait();
    CHECK(e.arrived());
  }
}

/// Eight exchanges of n ints for each pair are open; even ranks wait from the front, odd ones from the back.
template <class C>
void messages_in_order(C const& c, int n, int laps) {
  auto count = [n](int, int) { return n; };
  for (int lap = 0; lap < laps; ++lap) {
    std::deque<everybody<decltype(count)>> data;
    std::vector<std::optional<decltype(c.exchange({}))>> tokens;
    for (int k = 0; k < 8; ++k) {
      data.emplace_back(c.rank(), c.size(), k, count);
      tokens.emplace_back(c.exchange(data.back().traffic("fifo")));
    }
    for (int k = 0; k < 8; ++k) tokens[std::size_t(c.rank() % 2 ? 7 - k : k)]->wait();
    for (auto& e : data) CHECK(e.arrived());
  }
}

/// Three ranks send a (4, 5, wide) block out of a larger tensor with doubles behind it, and receive 4 wide rows of 5 ints, transposed,
/// and bytes.
template <class C>
void pieces_cut_differently(C const& c, sp::index_t wide) {
  int const next = (c.rank() + 1) % 3, before = (c.rank() + 2) % 3;
  std::vector<int> tensor(std::size_t(4 * 7 * (wide + 1)));
  for (std::size_t i = 0; i < tensor.size(); ++i) tensor[i] = int(i) + 1000000 * c.rank();
  std::vector<double> extra{c.rank() + 0.5, c.rank() + 0.25};
  auto const block = sp::view<int, 3>(tensor.data(), {4, 7, wide + 1}).narrow(1, 1, 5).narrow(2, 1, wide);
  std::array<piece, 2> out{sp::as_piece(block), sp::as_piece(all(extra))};

  sp::index_t const n = 4 * wide;
  std::vector<int> columns(std::size_t(5 * n), -1);
  sp::view<int, 2> const rows(columns.data(), {n, 5}, {1, n}); // transposed in memory
  std::vector<unsigned char> bytes(16);
  std::array<piece, 4> in{sp::as_piece(rows.rows(0, 3)), sp::as_piece(rows.rows(3, n - 3)), sp::as_piece(all(bytes).rows(0, 0)),
                          sp::as_piece(all(bytes))};
  parcel const send{next, out}, receive{before, in};
  c.exchange({"cuts", {&send, 1}, {&receive, 1}}).wait();

  bool good = true;
  for (sp::index_t i = 0; i < 5 * n; ++i) {
    sp::index_t const sheet = i / (5 * wide), row = i / wide % 5, at = i % wide;
    good = good && rows(i / 5, i % 5) == int((sheet * 7 + row + 1) * (wide + 1) + at + 1) + 1000000 * before;
  }
  CHECK(good);
  double got[2];
  std::memcpy(got, bytes.data(), 16);
  CHECK(got[0] == before + 0.5);
  CHECK(got[1] == before + 0.25);
}

/// Pairs of neighbours, and every second rank in reverse, at the same time; even ranks use them in one order, odd ones in the other,
/// with an exchange of all under way.
template <class C>
void groups_in_both_orders(C const& c) {
  int const size = c.size(), pair = size == 1 ? 1 : 2;
  auto rows = c.split(c.rank() / 2, c.rank()), columns = c.split(c.rank() % 2, -c.rank());
  CHECK(rows.size() == pair);
  CHECK(rows.rank() == c.rank() % 2);
  CHECK(columns.size() == (size + 1) / 2);
  CHECK(columns.rank() == columns.size() - 1 - c.rank() / 2);
  CHECK(columns.world_rank() == c.rank());
  CHECK(columns.world_size() == size);
  for (int round = 0; round < 20; ++round) {
    ring_step outer(c.rank(), c.size(), 100 + c.rank());
    ring_step row(rows.rank(), rows.size(), 200 + c.rank()), column(columns.rank(), columns.size(), 300 + c.rank());
    auto a = c.exchange(outer.traffic());
    if (c.rank() % 2) columns.exchange(column.traffic()).wait();
    rows.exchange(row.traffic()).wait();
    if (c.rank() % 2 == 0) columns.exchange(column.traffic()).wait();
    a.wait();
    CHECK(outer.in == 100 + (c.rank() + size - 1) % size);
    CHECK(row.in == 200 + (size == 1 ? 0 : c.rank() ^ 1));
    CHECK(column.in == 300 + (c.rank() + 2) % (size == 1 ? 1 : size));
    columns.barrier();
  }
}

/// Six ranks: equal keys keep the order of ranks, colors are any numbers, groups split again and outlive their parents.
template <class C>
void groups_of_groups(C const& c) {
  auto half = c.split(c.rank() < 3 ? -7 : 1 << 30, 5);
  CHECK(half.size() == 3);
  CHECK(half.rank() == c.rank() % 3);
  auto alone = half.split(half.rank(), 0);
  CHECK(alone.size() == 1);
  alone.barrier();
  auto same = c.split(0, 0);
  CHECK(same.rank() == c.rank());
  same.barrier();
  std::optional<C> parent(c.split(0, -c.rank()));
  auto child = parent->split(0, parent->rank() % 2);
  parent.reset();
  for (int k = 0; k < 5; ++k) {
    ring_step s(child.rank(), child.size(), child.rank());
    child.exchange(s.traffic()).wait();
    CHECK(s.in == (child.rank() + 5) % 6);
  }
}

/// Eight rounds of a ring, of pairs and of sums on four ranks, under delays drawn from `seed`; the same bits for all delays.
template <class C>
std::vector<float> under_delays(C const& inner, std::uint64_t seed, std::chrono::microseconds max_delay, std::size_t n) {
  sp::chaos c(inner, {.seed = seed, .max_delay = max_delay});
  sp::pool scratch;
  auto pair = c.split(c.rank() / 2, 0);
  std::vector<float> v(n), got(n), other(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = float(c.rank() * 1000 + 1) / float(i + 3);
  for (int round = 0; round < 8; ++round) {
    piece const out = sp::as_piece(all(v)), in = sp::as_piece(all(got)), across = sp::as_piece(all(other));
    parcel const to{(c.rank() + 1) % 4, {&out, 1}}, from{(c.rank() + 3) % 4, {&in, 1}};
    parcel const mine{1 - pair.rank(), {&out, 1}}, theirs{1 - pair.rank(), {&across, 1}};
    auto a = c.exchange({"ring", {&to, 1}, {&from, 1}});
    auto b = pair.exchange({"pair", {&mine, 1}, {&theirs, 1}});
    b.wait();
    a.wait();
    for (std::size_t i = 0; i < n; ++i) v[i] = 0.3f * got[i] + 0.7f * other[i];
    sp::all_reduce(c, all(v), scratch);
  }
  return v;
}

} // namespace collective_tests
