// Checked integers and the one cut rule, against wider arithmetic and against their definitions.
// Part of it at compile time: geometry rests on these.
#include <doctest/doctest.h>

#include <limits>

#include <sp/core/index.hpp>

#include "support/failure.hpp"

namespace test_index {
namespace {

using sp::errc;
using sp::index_t;
using support::failure_of;
using support::says;

__extension__ using wide = __int128; // -Wpedantic does not know it
constexpr index_t largest = std::numeric_limits<index_t>::max(), smallest = std::numeric_limits<index_t>::min();

static_assert(sizeof(index_t) == 8);
static_assert(sp::floor_div(7, 2) == 3 && sp::floor_div(-7, 2) == -4 && sp::floor_div(7, -2) == -4 && sp::floor_div(-7, -2) == 3);
static_assert(sp::round_up(7, 4) == 8 && sp::round_up(8, 4) == 8 && sp::round_up(0, 5) == 0 && sp::round_up(-7, 4) == -4);
static_assert(sp::round_up(std::size_t{65}, 64) == 128 && sp::round_up(sp::index_t{65}, 64) == 128);
static_assert(sp::ceil_div(7, 2) == 4 && sp::ceil_div(-7, 2) == -3 && sp::ceil_div(6, 2) == 3 && sp::ceil_div(0, 5) == 0);
static_assert(sp::unbounded + sp::unbounded > sp::unbounded && sp::unbounded * 4 > 0); // sums of bounds do not overflow
static_assert(sp::min(3, -2) == -2 && sp::max(3, -2) == 3);

TEST_CASE("index_t: division rounds towards minus and plus infinity for every sign") {
  int wrong = 0;
  for (index_t a = -30; a <= 30; ++a)
    for (index_t b = -7; b <= 7; ++b) {
      if (b == 0) continue;
      index_t f = sp::floor_div(a, b), c = sp::ceil_div(a, b);
      double exact = double(a) / double(b);
      wrong += double(f) <= exact && exact < double(f + 1) && double(c) >= exact && exact > double(c - 1) ? 0 : 1;
    }
  CHECK(wrong == 0);
}

TEST_CASE("index_t: the cut rule is floor(p n / P), without overflow on the way") {
  int wrong = 0;
  for (index_t n = 0; n <= 60; ++n)
    for (index_t parts = 1; parts <= 17; ++parts)
      for (index_t p = 0; p <= parts; ++p) wrong += sp::cut(n, p, parts) == p * n / parts ? 0 : 1;
  for (index_t n : {largest, largest - 5, largest / 3})
    for (index_t parts : {index_t{1}, index_t{7}, index_t{64}, index_t{1000}})
      for (index_t p : {index_t{0}, parts / 2, parts - 1, parts})
        wrong += sp::cut(n, p, parts) == index_t(static_cast<wide>(p) * n / parts) ? 0 : 1;
  CHECK(wrong == 0);
  CHECK(sp::cut(largest, 7, 7) == largest);
}

TEST_CASE("index_t: sums and products over int64 are size_overflow with both numbers [asan]") {
  CHECK(sp::checked_add(largest - 1, 1) == largest);
  CHECK(sp::checked_mul(index_t{1} << 31, index_t{1} << 31) == index_t{1} << 62);
  CHECK(sp::checked_mul(0, largest) == 0);
  CHECK(says(failure_of([] { return sp::checked_add(largest, 1); }), errc::size_overflow, "9223372036854775807", "1"));
  CHECK(says(failure_of([] { return sp::checked_add(smallest, -1); }), errc::size_overflow, "-9223372036854775808"));
  CHECK(says(failure_of([] { return sp::checked_mul(index_t{1} << 32, index_t{1} << 31); }), errc::size_overflow, "4294967296",
             "2147483648"));
  CHECK(says(failure_of([] { return sp::checked_mul(smallest, -1); }), errc::size_overflow, "-9223372036854775808"));
}

} // namespace
} // namespace test_index
