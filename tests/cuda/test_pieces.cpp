// Where kernels find the bytes of a list of pieces: in the order in which sp::copy reads them, for any shapes, strides, rows and cuts.
// Exhaustive where it is small, at random where it is large; addresses alone, so that lists may be as long as those of a device.
#include <doctest/doctest.h>

#include <random>
#include <set>
#include <vector>

#include <sp/cuda/copy.hpp>

namespace test_pieces {

using sp::index_t;
using sp::piece;

namespace {

using dice = std::mt19937_64;
index_t between(dice& g, index_t a, index_t b) { return a + index_t(g() % std::uint64_t(b - a + 1)); }

/// A list of pieces with the rows that they list.
struct pieces {
  std::vector<std::vector<sp::row_range>> rows;
  std::vector<piece> list;
};

/// Strided blocks of one to four dimensions, dense in part, with holes, overlapping, backwards, some with lists of rows.
pieces draw(dice& g, int count, index_t element, index_t longest, bool row_lists) {
  pieces all;
  all.rows.resize(std::size_t(count));
  for (int i = 0; i < count; ++i) {
    piece p;
    p.data = reinterpret_cast<std::byte*>(index_t(0x10000000) * (i + 1) + between(g, 0, 1000) * element);
    p.element = element;
    p.rank = int(between(g, 0, 4));
    index_t inner = element;
    for (int d = p.rank; d-- > 0;) {
      auto const at = std::size_t(d);
      p.extents[at] = g() % 8 == 0 ? between(g, 0, 1) : between(g, 1, longest);
      p.strides[at] = g() % 2 ? inner : (inner + between(g, 0, 3) * element) * (g() % 8 ? 1 : -1);
      inner = p.strides[at] * p.extents[at];
    }
    if (row_lists && p.rank > 0 && g() % 3 == 0) {
      auto& rows = all.rows[std::size_t(i)];
      p.extents[0] = 0;
      for (index_t r = between(g, 1, 4); r > 0; --r) {
        rows.push_back({between(g, 0, 9), between(g, 1, 3), between(g, 0, 3)});
        p.extents[0] += rows.back().count;
      }
      p.rows = sp::row_list(rows);
    }
    all.list.push_back(p);
  }
  return all;
}

/// The address of every byte, as the host's copy reads the list.
std::vector<std::byte*> addresses(std::span<piece const> list) {
  std::vector<std::byte*> all;
  for (sp::detail::segment_cursor at(list); !at.done(); at.advance(1)) all.push_back(at.data());
  return all;
}

/// Every pair of bytes that the kernels of a copy move, in order; and of how many bytes their stretches are.
struct moved {
  std::vector<std::byte*> to, from;
  std::vector<index_t> at_once;
};
template <class Kernel>
moved all_that_moves(std::span<piece const> to, std::span<piece const> from) {
  moved m;
  sp::detail::plan_copies<Kernel>(sp::detail::block_cursor(to), sp::detail::block_cursor(from), [&](Kernel const& k) {
    index_t const bytes = index_t(1) << k.to.shift;
    m.at_once.push_back(bytes);
    for (std::uint32_t i = 0; i < k.stretches; ++i)
      for (index_t b = 0; b < bytes; ++b) m.to.push_back(k.to.at(i) + b), m.from.push_back(k.from.at(i) + b);
  });
  return m;
}

template <class Kernel>
moved check_copy(std::span<piece const> to, std::span<piece const> from) {
  auto t = addresses(to), f = addresses(from);
  std::size_t const n = std::min(t.size(), f.size());
  t.resize(n), f.resize(n);
  moved m = all_that_moves<Kernel>(to, from);
  CHECK((m.to == t && m.from == f));
  for (std::size_t i = 0; i < n && !m.at_once.empty(); i += std::size_t(m.at_once[0]))
    if (m.at_once.size() == 1)
      REQUIRE((reinterpret_cast<std::uintptr_t>(m.to[i]) | reinterpret_cast<std::uintptr_t>(m.from[i])) %
                  std::uintptr_t(std::min(m.at_once[0], index_t(16))) ==
              0);
  return m;
}

piece dense(std::uintptr_t address, index_t element, index_t rows, index_t row, index_t stride) {
  piece p;
  p.data = reinterpret_cast<std::byte*>(address);
  p.element = element;
  p.rank = 2;
  p.extents = {rows, row / element};
  p.strides = {stride, element};
  return p;
}

} // namespace

TEST_CASE("cuda pieces: division by multiplication is exact [asan]") {
  std::uint32_t const most = (std::uint32_t(1) << 31) - 1;
  long wrong = 0;
  for (std::uint32_t d = 1; d <= 300; ++d)
    for (std::uint32_t n = 0; n < 3000; ++n) wrong += sp::detail::divider(d).quotient(n) != n / d;
  dice g(1);
  for (int i = 0; i < 200000; ++i) {
    auto const d = std::uint32_t(between(g, 1, index_t(most) >> (g() % 31))), n = std::uint32_t(between(g, 0, most));
    sp::detail::divider const by(d);
    for (std::uint32_t x : {n, most, most / d * d, most / d * d - 1}) wrong += by.quotient(x) != x / d;
  }
  for (std::uint32_t d : {most, most - 1, (most >> 1) + 1, (most >> 1) + 2})
    for (std::uint32_t x : {most, most - 1, d, d - 1}) wrong += sp::detail::divider(d).quotient(x) != x / d;
  CHECK(wrong == 0);
}

TEST_CASE("cuda pieces: a kernel finds every byte of small shapes where sp::copy does [asan]") {
  // two pieces a side; every combination of extents 0 to 3 in three dimensions, and of dense and strided
  int copies = 0;
  for (int shape = 0; shape < 4 * 4 * 4; ++shape)
    for (int holes = 0; holes < 8; ++holes) {
      piece p;
      p.data = reinterpret_cast<std::byte*>(0x1000 + holes * 4);
      p.element = 4;
      p.rank = 3;
      p.extents = {shape / 16, shape / 4 % 4, shape % 4};
      index_t inner = p.element;
      for (int d = 3; d-- > 0;) {
        p.strides[std::size_t(d)] = inner + (holes >> d & 1) * 4;
        inner = p.strides[std::size_t(d)] * p.extents[std::size_t(d)];
      }
      piece const list[]{p, dense(0x9000, 4, 3, 12, 20)}, other[]{dense(0x20002, 2, 5, 6, 8), dense(0x30000, 1, 90, 1, 1)};
      check_copy<sp::detail::copy_few>(list, other);
      check_copy<sp::detail::copy_few>(other, list);
      ++copies;
    }
  CHECK(copies == 512);
}

TEST_CASE("cuda pieces: a kernel finds every byte of random lists where sp::copy does, in as many launches as it takes [asan]") {
  dice g(7);
  long launches = 0, rows = 0;
  std::set<index_t> stretches;
  for (int i = 0; i < 400; ++i) {
    index_t const element = index_t(1) << between(g, 0, 6);
    pieces const to = draw(g, int(between(g, 0, 9)), element, 5, i % 2), from = draw(g, int(between(g, 1, 9)), element, 5, i % 2);
    // a table of few blocks and shapes, so that lists are cut in the midst of pieces; and the real one
    auto const few = check_copy<sp::detail::copy_words<3, 2>>(to.list, from.list);
    auto const real = check_copy<sp::detail::copy_few>(to.list, from.list);
    launches += long(few.at_once.size());
    stretches.insert(few.at_once.begin(), few.at_once.end());
    stretches.insert(real.at_once.begin(), real.at_once.end());
    for (piece const& p : from.list) rows += long(p.rows.size());
  }
  CHECK((launches > 800 && rows > 100));
  CHECK(stretches == std::set<index_t>{1, 2, 4, 8, 16, 32, 64, 128});
}

TEST_CASE(
    "cuda pieces: words of sixteen bytes, up to eight a stretch, where runs, strides and addresses allow, else what they allow") {
  auto word = [](piece const& to, piece const& from) {
    return all_that_moves<sp::detail::copy_few>({&to, 1}, {&from, 1}).at_once.at(0);
  };
  piece const good = dense(0x1000, 2, 4, 64, 96);
  piece const longer = dense(0x1000, 2, 4, 384, 400);
  CHECK(word(longer, dense(0x8010, 2, 6, 256, 272)) == 128);
  CHECK(word(longer, dense(0x8000, 2, 8, 192, 208)) == 64);
  CHECK(word(good, dense(0x8000, 2, 4, 64, 128)) == 64); // addresses and strides are those of words
  CHECK(word(good, dense(0x8010, 2, 2, 128, 144)) == 64);
  CHECK(word(good, dense(0x8000, 2, 8, 32, 128)) == 32);
  CHECK(word(good, dense(0x8000, 2, 16, 16, 128)) == 16);
  CHECK(word(good, dense(0x8008, 2, 4, 64, 128)) == 8); // address
  CHECK(word(good, dense(0x8000, 2, 4, 64, 132)) == 4); // stride
  CHECK(word(good, dense(0x8000, 2, 32, 8, 16)) == 8);  // run
  CHECK(word(good, dense(0x8001, 1, 4, 64, 128)) == 1);
  CHECK(word(dense(0x1000, 2, 1, 64, 7), dense(0x8000, 2, 1, 64, 9)) == 64); // the stride of one row means nothing
}

TEST_CASE("cuda pieces: lists of many gigabytes are cut where their bytes can be counted in 31 bits [asan]") {
  index_t const gib = index_t(1) << 30;
  // one run of 5 GiB and 3 bytes; rows of 1.5 GiB; many rows: against a list of other cuts
  piece const run = dense(0x100000000000, 1, 1, 5 * gib + 3, 0), rows = dense(0x200000000000, 1, 5, 3 * gib / 2, 2 * gib),
              many = dense(0x300000000000, 2, 3 * gib, 2, 4);
  auto address = [](piece const& p, index_t at) {
    piece const list[]{p};
    return sp::detail::segment_cursor(list, at).data();
  };
  auto check = [&](piece const& to, piece const& from, index_t least_word) {
    index_t at = 0, wrong = 0;
    using kernel = sp::detail::copy_few;
    sp::detail::plan_copies<kernel>(
        sp::detail::block_cursor({&to, 1}), sp::detail::block_cursor({&from, 1}), [&](kernel const& k) {
          wrong += (index_t(1) << k.to.shift) < least_word || k.stretches == 0 || index_t(k.stretches) << k.to.shift > 2 * gib;
          for (std::uint32_t i : {0u, 1u, k.stretches / 3, k.stretches / 2 + 1, k.stretches - 1})
            if (i < k.stretches) {
              index_t const byte = at + (index_t(i) << k.to.shift);
              wrong += k.to.at(i) != address(to, byte) || k.from.at(i) != address(from, byte);
            }
          at += index_t(k.stretches) << k.to.shift;
        });
    CHECK(wrong == 0);
    CHECK(at == sp::min(to.bytes(), from.bytes()));
  };
  check(run, rows, 1);
  check(rows, run, 1);
  check(many, rows, 2);
  check(rows, many, 2);
  check(dense(0x100000000000, 1, 1, 4 * gib, 0), rows, 16);
}

} // namespace test_pieces
