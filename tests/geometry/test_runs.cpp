// Runs against brute force: intersection, clipping, joining and stream order of every small arithmetic progression.
// The oracle lists positions one by one; extreme values show that nothing overflows silently.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <vector>

#include <sp/geometry/run.hpp>

#include "support/failure.hpp"

namespace test_runs {
namespace {

using sp::index_t;
using sp::run;

std::vector<index_t> positions(run const& r) {
  std::vector<index_t> out;
  for (index_t i = 0; i < r.count; ++i) out.push_back(r.at(i));
  return out;
}
std::vector<index_t> positions(std::vector<run> const& list) {
  std::vector<index_t> out;
  for (run const& r : list)
    for (index_t p : positions(r)) out.push_back(p);
  return out;
}
std::vector<index_t> sorted(std::vector<index_t> v) {
  std::sort(v.begin(), v.end());
  return v;
}

std::vector<run> all_runs(index_t begins, index_t counts, index_t strides) {
  std::vector<run> out;
  for (index_t b = 0; b <= begins; ++b)
    for (index_t n = 0; n <= counts; ++n)
      for (index_t s = 1; s <= strides; ++s) out.push_back({b, n, s});
  return out;
}

/// What two runs share, found position by position, agrees with the closed form, rows included.
bool agrees(run const& a, run const& b) {
  std::vector<index_t> want;
  for (index_t p : positions(a))
    if (b.contains(p)) want.push_back(p);
  sp::run_overlap c = sp::intersect(a, b);
  if (c.count != index_t(want.size())) return false;
  for (index_t i = 0; i < c.count; ++i) {
    index_t p = want[std::size_t(i)];
    if (c.begin + i * c.stride != p || a.at(c.a + i * c.a_step) != p || b.at(c.b + i * c.b_step) != p) return false;
    if (c.a + i * c.a_step >= a.count || c.b + i * c.b_step >= b.count) return false;
  }
  return true;
}

// Stripes 1 + 6i and 4 + 9i: 13, 31, ... (steps 6 and 9 meet every 18).
static_assert(sp::intersect({1, 10, 6}, {4, 10, 9}).begin == 13 && sp::intersect({1, 10, 6}, {4, 10, 9}).stride == 18);
static_assert(sp::intersect({1, 10, 6}, {4, 10, 9}).a == 2 && sp::intersect({1, 10, 6}, {4, 10, 9}).b == 1);
static_assert(sp::intersect({0, 100, 2}, {1, 100, 2}).count == 0);
static_assert(sp::clip({3, 5, 4}, 7, 16) == sp::interval{1, 3}); // 3 7 11 15 19
static_assert(run{5, 3, 4}.contains(13) && !run{5, 3, 4}.contains(17) && !run{5, 3, 4}.contains(10));
static_assert(run{5, 0, 4}.end() == 5 && run{5, 3, 4}.end() == 14 && run{5, 3, 4}.sub(1, 2) == run{9, 2, 4});

TEST_CASE("runs: intersection of every pair of small runs") {
  auto list = all_runs(7, 6, 6);
  int wrong = 0;
  for (run const& a : list)
    for (run const& b : list) wrong += agrees(a, b) ? 0 : 1;
  CHECK(wrong == 0);
}

TEST_CASE("runs: intersection of long runs with large and coprime strides [asan]") {
  int wrong = 0;
  for (index_t s = 1; s <= 23; s += 2)
    for (index_t t = 2; t <= 24; t += 3)
      for (index_t shift : {-50, -1, 0, 1, 17, 300}) wrong += agrees({100, 40, s}, {100 + shift, 40, t}) ? 0 : 1;
  CHECK(wrong == 0);

  // far beyond 2^31, and where strides are as long as contexts
  index_t far = index_t{1} << 40;
  CHECK(agrees({far, 5, far}, {far, 5, far}));
  sp::run_overlap c = sp::intersect({0, index_t{1} << 38, 7}, {3, index_t{1} << 38, 5}); // 28, 63, ...
  CHECK(c.begin == 28);
  CHECK(c.stride == 35);
  CHECK(c.a == 4);
  CHECK(c.b == 5);
  CHECK(c.count == (5 * ((index_t{1} << 38) - 1) + 3 - 28) / 35 + 1);
}

TEST_CASE("runs: a common step beyond int64 is size_overflow, not a wrapped number [asan]") {
  index_t a = (index_t{1} << 61) - 1, b = (index_t{1} << 61) - 2; // coprime
  CHECK(support::says(support::failure_of([&] {
                        return sp::intersect({0, 2, a}, {0, 2, b});
                      }),
                      sp::errc::size_overflow, "2305843009213693951"));
}

TEST_CASE("runs: clip keeps exactly the positions in the range") {
  int wrong = 0;
  for (run const& r : all_runs(5, 5, 4))
    for (index_t a = -3; a < 30; ++a)
      for (index_t b = a - 1; b < 30; ++b) {
        std::vector<index_t> want, got;
        for (index_t i = 0; i < r.count; ++i)
          if (a <= r.at(i) && r.at(i) < b) want.push_back(i);
        sp::interval x = sp::clip(r, a, b);
        for (index_t i = 0; i < x.count; ++i) got.push_back(x.first + i);
        wrong += want == got && x.count >= 0 ? 0 : 1;
      }
  CHECK(wrong == 0);
}

TEST_CASE("runs: append joins only what continues affinely and keeps the order of rows") {
  int wrong = 0;
  auto list = all_runs(6, 3, 3);
  for (run const& a : list)
    for (run const& b : list) {
      std::vector<run> out;
      sp::append(out, a);
      sp::append(out, b);
      auto want = positions(a);
      for (index_t p : positions(b)) want.push_back(p);
      wrong += positions(out) == want ? 0 : 1;
      for (run const& r : out) wrong += r.count > 0 && r.stride >= 1 ? 0 : 1;
    }
  CHECK(wrong == 0);

  std::vector<run> out;
  sp::append(out, {2, 1, 1});
  sp::append(out, {5, 2, 3});
  CHECK(out == std::vector<run>{{2, 3, 3}});
  sp::append(out, {11, 1, 1});
  sp::append(out, {14, 3, 3});
  CHECK(out == std::vector<run>{{2, 7, 3}});
  sp::append(out, {30, 2, 3}); // a gap
  CHECK(out.size() == 2);
  sp::append(out, {0, 1, 1}); // backwards
  CHECK(out.size() == 3);
}

TEST_CASE("runs: single positions do not invent a stride") {
  std::vector<run> out;
  sp::append(out, {1, 1, 1});
  sp::append(out, {3, 1, 1}); // the two chunks of a document shorter than 2 P under zigzag
  CHECK(out == std::vector<run>{{1, 1, 1}, {3, 1, 1}});
  sp::append(out, {4, 1, 1}); // a neighbour
  CHECK(out == std::vector<run>{{1, 1, 1}, {3, 2, 1}});
}

TEST_CASE("runs: stream order keeps the positions, sorts disjoint runs and closes stripes") {
  int wrong = 0, dense = 0;
  auto list = all_runs(5, 3, 3);
  for (run const& a : list)
    for (run const& b : list) {
      if (sp::intersect(a, b).count > 0) continue; // runs of a layout are disjoint
      auto out = sp::in_stream_order({a, b});
      wrong += sorted(positions(out)) == sorted(positions(std::vector<run>{a, b})) ? 0 : 1;
      for (std::size_t i = 1; i < out.size(); ++i) wrong += out[i - 1].begin < out[i].begin ? 0 : 1;
      auto all = sorted(positions(out));
      bool hole_free = !all.empty() && all.back() - all.front() + 1 == index_t(all.size());
      if (hole_free) { // one dense run, in ascending order
        ++dense;
        wrong += out == std::vector<run>{{all.front(), index_t(all.size()), 1}} ? 0 : 1;
      }
    }
  CHECK(wrong == 0);
  CHECK(dense > 100);

  // stripes of four ranks, given in any order, are the whole stream
  std::vector<run> stripes{{2, 5, 4}, {0, 6, 4}, {3, 5, 4}, {1, 5, 4}};
  CHECK(sp::in_stream_order(stripes) == std::vector<run>{{0, 21, 1}});
  // the zigzag halves of two ranks: chunks 0 1 and 6 7 of eight
  CHECK(sp::in_stream_order({{0, 3, 1}, {21, 3, 1}, {3, 3, 1}, {18, 3, 1}}) == std::vector<run>{{0, 6, 1}, {18, 6, 1}});
  CHECK(sp::in_stream_order({}).empty());
  CHECK(sp::in_stream_order({{4, 0, 1}, {9, 0, 3}}).empty());
}

TEST_CASE("runs: counts add up, or size_overflow") {
  std::vector<run> list{{0, 3, 1}, {9, 0, 2}, {10, 4, 5}};
  CHECK(sp::count_of(list) == 7);
  std::vector<run> huge{{0, index_t{1} << 62, 1}, {0, index_t{1} << 62, 1}};
  CHECK(support::says(support::failure_of([&] { return sp::count_of(huge); }), sp::errc::size_overflow, "4611686018427387904"));
}

} // namespace
} // namespace test_runs
