// Pieces: lists of strided blocks copied end to end, however differently both sides are cut.
// Compared byte by byte with the elements written out one after another.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include <sp/core/piece.hpp>

#include "support/failure.hpp"
#include "support/tensors.hpp"

namespace test_piece {
namespace {

using sp::errc;
using sp::index_t;
using sp::piece;
using support::failure_of;
using support::says;

/// The row of memory that a piece holds as its i-th.
index_t row_of(piece const& p, index_t i) {
  for (sp::row_range const& r : p.rows) {
    if (i < r.count) return r.first + i * r.step;
    i -= r.count;
  }
  return i;
}

/// The bytes of a piece in row-major order, one element at a time.
std::vector<unsigned char> bytes_of(std::vector<piece> const& list) {
  std::vector<unsigned char> out;
  for (piece const& p : list)
    for (index_t n = 0; n < p.elements(); ++n) {
      index_t at = 0, rest = n;
      for (int d = p.rank; d-- > 0;) {
        index_t const i = rest % p.extents[std::size_t(d)];
        at += (d == 0 ? row_of(p, i) : i) * p.strides[std::size_t(d)];
        rest /= p.extents[std::size_t(d)];
      }
      for (index_t b = 0; b < p.element; ++b) out.push_back(static_cast<unsigned char>(p.data[at + b]));
    }
  return out;
}

constexpr std::size_t margin = 1000, buffer = 3 * margin; ///< what reads or writes a little beside a block stays in its buffer

/// A random strided block in the middle of a buffer.
piece random_piece(std::mt19937& g, std::vector<double>& memory, bool read_only) {
  auto pick = [&](index_t a, index_t b) { return a + index_t(g()) % (b - a + 1); };
  piece p;
  p.element = std::vector<index_t>{1, 2, 4, 8}[std::size_t(pick(0, 3))];
  p.rank = int(pick(0, 4));
  index_t reach = p.element;
  for (int d = p.rank; d-- > 0;) {
    p.extents[std::size_t(d)] = pick(0, 9) == 0 ? 0 : pick(1, 4);
    index_t dense = reach;
    p.strides[std::size_t(d)] =
        read_only && pick(0, 5) == 0 ? 0 : dense + p.element * pick(0, 2); // broadcast, dense or with holes
    reach = sp::max(reach, p.strides[std::size_t(d)] * p.extents[std::size_t(d)]);
  }
  p.data = reinterpret_cast<std::byte*>(memory.data() + margin);
  for (int d = 0; d < p.rank; ++d) // some dimensions stand backwards
    if (index_t& stride = p.strides[std::size_t(d)]; p.elements() > 0 && pick(0, 3) == 0) {
      p.data += (p.extents[std::size_t(d)] - 1) * stride;
      stride = -stride;
    }
  return p;
}

/// The same memory, with a random list of rows: what is only read names rows twice, and others not at all.
piece with_rows(std::mt19937& g, piece p, std::vector<sp::row_range>& rows, bool read_only) {
  rows.clear();
  if (p.rank == 0 || p.extents[0] == 0 || g() % 2) return p;
  index_t const n = p.extents[0], middle = index_t(g()) % (n + 1);
  if (read_only) {
    p.extents[0] = 0;
    for (std::uint32_t k = 0; k < 1 + g() % 3; ++k) {
      index_t const first = index_t(g()) % n, step = index_t(g() % 3) - 1;
      rows.push_back({first, step, step == 0 ? 2 : step > 0 ? n - first : first + 1});
      if (g() % 3 == 0) rows.back().count = 0;
      p.extents[0] += rows.back().count;
    }
  } else {
    rows = {{middle, 1, n - middle}, {middle - 1, -1, middle}}; // the second part first, then the first one backwards
  }
  p.rows = rows;
  return p;
}

TEST_CASE("piece: views of any type become bytes and come back") {
  std::vector<float> v(24);
  auto t = support::tensor<3>(v, {2, 3, 4});
  piece p = sp::as_piece(t.narrow(1, 1, 2));
  CHECK(p.element == 4);
  CHECK(p.rank == 3);
  CHECK(p.bytes() == 2 * 2 * 4 * 4);
  CHECK(p.strides[0] == 48);
  auto back = sp::as_view<float, 3>(p);
  CHECK(back.data == t.narrow(1, 1, 2).data);
  CHECK(back.strides == t.strides);
  CHECK(sp::as_piece(sp::view<float const, 1>(v.data(), {0})).bytes() == 0);
  CHECK(says(failure_of([&] { return sp::as_view<double, 3>(p); }), errc::rank_mismatch, "element size"));
  CHECK(says(failure_of([&] { return sp::as_view<float, 2>(p); }), errc::rank_mismatch, "another rank"));
  sp::row_range const rows[] = {{1, 1, 1}, {0, 1, 1}};
  p.rows = rows;
  CHECK(says(failure_of([&] { return sp::as_view<float, 3>(p); }), errc::bad_state, "lists its rows"));
}

TEST_CASE("piece: random lists are read end to end as their elements stand [asan]") {
  std::mt19937 g(3);
  int wrong = 0;
  index_t moved = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<double> source = support::random_bits<double>(buffer, unsigned(round));
    std::vector<sp::row_range> rows[6];
    std::vector<piece> from;
    for (std::uint32_t n = g() % 4; n-- > 0;) from.push_back(with_rows(g, random_piece(g, source, true), rows[n], true));
    auto want = bytes_of(from);
    moved += index_t(want.size());

    // into a dense buffer, and from there into strided pieces of other sizes
    std::vector<unsigned char> dense(want.size() + 1, 0xee);
    piece flat{reinterpret_cast<std::byte*>(dense.data()), 1, 1, {index_t(want.size())}, {1}};
    index_t n = sp::copy({&flat, 1}, from);
    wrong += n == index_t(want.size()) && std::equal(want.begin(), want.end(), dense.begin()) && dense.back() == 0xee ? 0 : 1;

    std::vector<double> first(buffer), second(buffer);
    std::vector<piece> to{with_rows(g, random_piece(g, first, false), rows[4], false),
                          with_rows(g, random_piece(g, second, false), rows[5], false)};
    index_t room = sp::total_bytes(to);
    n = sp::copy(to, from);
    wrong += n == sp::min(room, index_t(want.size())) ? 0 : 1; // the smaller total
    auto got = bytes_of(to);
    wrong += std::equal(got.begin(), got.begin() + n, want.begin()) ? 0 : 1;

    std::vector<piece> plain;
    for (piece const& p : from) sp::for_each_plain(p, [&](piece const& x) { plain.push_back(x); });
    wrong +=
        bytes_of(plain) == want && std::all_of(plain.begin(), plain.end(), [](piece const& x) { return x.rows.empty(); }) ? 0 : 1;
  }
  CHECK(wrong == 0);
  CHECK(moved > 100000);
}

TEST_CASE("piece: a scatter writes its elements and nothing between them") {
  std::vector<int> from{1, 2, 3, 4, 5, 6}, to(12, -1);
  piece a = sp::as_piece(support::tensor<1>(from, {6}));
  piece b = sp::as_piece(sp::view<int, 2>(to.data(), {3, 2}, {4, 1}));
  CHECK(sp::copy({&b, 1}, {&a, 1}) == 24);
  CHECK(to == std::vector<int>{1, 2, -1, -1, 3, 4, -1, -1, 5, 6, -1, -1});
  CHECK(sp::copy({}, {&a, 1}) == 0);
  CHECK(sp::copy({&b, 1}, {}) == 0);
}

} // namespace
} // namespace test_piece
