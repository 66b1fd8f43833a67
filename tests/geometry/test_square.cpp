// to_square_causal against brute force: full rectangles and one square top-left causal block that hold exactly a block's pairs.
// What restricted kernels (causal squares only) are given under any sharding.
#include <doctest/doctest.h>

#include <vector>

#include <sp/geometry/square_causal.hpp>
#include <sp/layout/layout.hpp>
#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>

namespace test_square {
namespace {

using sp::block;
using sp::index_t;

struct outcome {
  index_t full = 0, square = 0;
  bool exact = true;
};

/// Every pair of b in exactly one piece, nothing else, and each piece full or square causal with its place right.
outcome examine(block const& b, sp::block_pieces const& pieces) {
  outcome r;
  std::vector<int> shown(std::size_t(b.rows * b.keys));
  for (block const& p : pieces) {
    if (p.is_full())
      ++r.full;
    else if (sp::is_square_causal(p))
      ++r.square;
    else
      r.exact = false;
    index_t q0 = p.q - b.q, k0 = p.k - b.k;
    bool inside = p.rows > 0 && p.keys > 0 && q0 >= 0 && k0 >= 0 && q0 + p.rows <= b.rows && k0 + p.keys <= b.keys;
    bool placed = p.q_pos == b.q_pos + q0 * b.q_stride && p.k_pos == b.k_pos + k0 * b.k_stride && p.q_stride == b.q_stride &&
                  p.k_stride == b.k_stride && p.document == b.document && p.id == b.id && p.q_origin == b.q_origin &&
                  p.k_origin == b.k_origin && p.q_tensor == b.q_tensor && p.k_tensor == b.k_tensor;
    if (!inside || !placed) {
      r.exact = false;
      continue;
    }
    for (index_t i = 0; i < p.rows; ++i)
      for (index_t j = 0; j < p.keys; ++j) shown[std::size_t((q0 + i) * b.keys + k0 + j)] += p.sees(i, j);
  }
  for (index_t i = 0; i < b.rows; ++i)
    for (index_t j = 0; j < b.keys; ++j) r.exact = r.exact && shown[std::size_t(i * b.keys + j)] == (b.sees(i, j) ? 1 : 0);
  return r;
}

constexpr block made(index_t rows, index_t keys, index_t shift, index_t lo, index_t hi, index_t q_stride = 1,
                     index_t k_stride = 1) {
  return {3, 40, rows, 5, 60, keys, 100, q_stride, 100 + shift, k_stride, lo, hi, 2, 77, 90, 80};
}

// Four rows, four keys, causal: the square alone.
static_assert(sp::to_square_causal(made(4, 4, 0, -sp::unbounded, 0))->size() == 1);
static_assert(sp::is_square_causal(sp::to_square_causal(made(4, 4, 0, -sp::unbounded, 0))->list[0]));
// Keys that begin earlier: a full block, then the square.
static_assert(sp::to_square_causal(made(4, 7, -3, -sp::unbounded, 0))->size() == 2);
// Two-sided bands and strides that disagree cannot be cut.
static_assert(!sp::to_square_causal(made(6, 6, 0, -2, 0)));
static_assert(!sp::to_square_causal(made(6, 6, 0, -sp::unbounded, 0, 1, 2)));
static_assert(!sp::to_square_causal(made(6, 6, 0, 0, sp::unbounded))); // keys after the query: the other side

TEST_CASE("square: every one-sided block is at most two full blocks and one square causal one [asan]") {
  index_t cut = 0, wrong = 0, most_full = 0, most_square = 0;
  for (index_t rows = 1; rows <= 7; ++rows)
    for (index_t keys = 1; keys <= 7; ++keys)
      for (index_t stride : {1, 3})
        for (index_t shift = -12; shift <= 12; ++shift)
          for (index_t hi = -6; hi <= 6; ++hi) {
            block b = made(rows, keys, shift, -sp::unbounded, hi, stride, stride);
            if (b.empty()) continue;
            auto pieces = sp::to_square_causal(b);
            if (!pieces) {
              ++wrong;
              continue;
            }
            ++cut;
            outcome r = examine(b, *pieces);
            wrong += r.exact ? 0 : 1;
            most_full = std::max(most_full, r.full);
            most_square = std::max(most_square, r.square);
            if (b.is_full()) wrong += pieces->size() == 1 ? 0 : 1;
          }
  CHECK(wrong == 0);
  CHECK(cut > 10000);
  CHECK(most_full <= 2);
  CHECK(most_square == 1);
}

TEST_CASE("square: a lower bound that excludes nothing is no bound; one that cuts is refused") {
  block b = made(5, 5, 0, -4, 0); // the first key is 4 before the last row
  REQUIRE(sp::to_square_causal(b));
  CHECK(examine(b, *sp::to_square_causal(b)).exact);
  CHECK(!sp::to_square_causal(made(5, 5, 0, -3, 0)));
  block full = made(5, 5, 0, -4, 4);
  REQUIRE(sp::to_square_causal(full));
  CHECK(examine(full, *sp::to_square_causal(full)).full == 1);
}

TEST_CASE("square: square causal is exactly what its name says, for every small block [asan]") {
  index_t wrong = 0, squares = 0;
  for (index_t rows = 1; rows <= 5; ++rows)
    for (index_t keys = 1; keys <= 5; ++keys)
      for (index_t stride : {1, 2})
        for (index_t shift = -4; shift <= 4; ++shift)
          for (index_t lo : {-sp::unbounded, index_t(-4), index_t(-1)})
            for (index_t hi : {index_t(-1), index_t(0), index_t(2), sp::unbounded}) {
              block const b = made(rows, keys, shift, lo, hi, stride, stride);
              if (rows == 1 && keys == 1) continue; // a pair that is seen is full, too
              bool same = rows == keys;
              for (index_t i = 0; i < rows; ++i)
                for (index_t j = 0; j < keys; ++j) same = same && b.sees(i, j) == (j <= i);
              squares += same;
              wrong += sp::is_square_causal(b) != same;
            }
  CHECK(wrong == 0);
  CHECK(squares > 20);
  CHECK(!sp::is_square_causal(made(3, 5, 0, -sp::unbounded, 0))); // row i sees keys 0..i, and nobody sees the last two
  CHECK(!sp::is_square_causal(made(5, 3, 0, -sp::unbounded, 0)));
}

TEST_CASE("square: one row or one key has no stride to disagree about") {
  for (index_t qs : {1, 2, 5})
    for (index_t ks : {1, 3})
      for (index_t shift = -6; shift <= 6; ++shift)
        for (auto [rows, keys] : {std::pair<index_t, index_t>{1, 6}, {6, 1}, {1, 1}}) {
          block b = made(rows, keys, shift, -sp::unbounded, 0, qs, ks);
          if (b.empty()) continue;
          auto pieces = sp::to_square_causal(b);
          REQUIRE(pieces);
          CHECK(examine(b, *pieces).exact);
        }
}

TEST_CASE("square: all blocks of causal rings, contiguous, zigzag and striped, packed documents") {
  sp::documents docs = sp::packed{0, 5, 5, 6, 29};
  auto mask = sp::slices(sp::causal(), docs, docs);
  index_t wrong = 0, seen = 0;
  auto all = [&](auto how) {
    for (int parts = 1; parts <= 8; ++parts) {
      sp::layout l(docs, how, parts);
      for (int r = 0; r < parts; ++r)
        for (int s = 0; s < parts; ++s)
          for (block const& b : sp::blocks(sp::place(l.runs(r)), sp::place(l.runs(s)), mask)) {
            ++seen;
            auto pieces = sp::to_square_causal(b);
            wrong += pieces && examine(b, *pieces).exact ? 0 : 1;
          }
    }
  };
  all(sp::contiguous{});
  all(sp::zigzag{});
  all(sp::striped{});
  CHECK(wrong == 0);
  CHECK(seen > 300);
}

} // namespace
} // namespace test_square
