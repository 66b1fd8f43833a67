// Shardings: every length over every number of parts is a partition, in the order that the formulas of each policy say.
// User-made shardings that overlap, miss tokens or leave the range are refused with the numbers.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <sp/layout/layout.hpp>
#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/nested.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>

#include "support/failure.hpp"

namespace test_shardings {
namespace {

using sp::errc;
using sp::index_t;
using sp::run;
using support::failure_of;
using support::says;

std::vector<index_t> positions(std::vector<run> const& list) {
  std::vector<index_t> out;
  for (run const& r : list)
    for (index_t i = 0; i < r.count; ++i) out.push_back(r.at(i));
  return out;
}

/// Each of n tokens in exactly one part.
template <class S>
bool is_partition(S const& how, index_t n, index_t parts) {
  std::vector<int> owners(std::size_t(n), 0);
  for (index_t p = 0; p < parts; ++p)
    for (index_t at : positions(how.runs(n, p, parts))) {
      if (at < 0 || at >= n) return false;
      ++owners[std::size_t(at)];
    }
  for (int o : owners)
    if (o != 1) return false;
  return true;
}

template <class S>
index_t uneven(S const& how, index_t n, index_t parts) {
  index_t least = n, most = 0;
  for (index_t p = 0; p < parts; ++p) {
    index_t c = sp::count_of(how.runs(n, p, parts));
    least = std::min(least, c);
    most = std::max(most, c);
  }
  return most - least;
}

// The one cut rule: 7 over 4 is 1, 2, 2, 2.
static_assert(sp::cut(7, 0, 4) == 0 && sp::cut(7, 1, 4) == 1 && sp::cut(7, 2, 4) == 3 && sp::cut(7, 3, 4) == 5 &&
              sp::cut(7, 4, 4) == 7);
static_assert(sp::cut(index_t{1} << 60, 7, 8) == (index_t{1} << 60) / 8 * 7); // no overflow on the way
// Zigzag, 4 ranks, 8 chunks: 0,7 | 1,6 | 2,5 | 3,4 (docs/semantics.md).
static_assert(sp::zigzag{}.runs(80, 0, 4) == std::vector<run>{{0, 10, 1}, {70, 10, 1}});
static_assert(sp::zigzag{}.runs(80, 1, 4) == std::vector<run>{{10, 10, 1}, {60, 10, 1}});
static_assert(sp::zigzag{}.runs(80, 2, 4) == std::vector<run>{{20, 10, 1}, {50, 10, 1}});
static_assert(sp::zigzag{}.runs(80, 3, 4) == std::vector<run>{{30, 10, 1}, {40, 10, 1}});
// Ragged: chunk i is [floor(i n / 2R), floor((i + 1) n / 2R)).
static_assert(sp::zigzag{}.runs(11, 1, 2) == std::vector<run>{{2, 3, 1}, {5, 3, 1}});
// Stripes: g(r, i) = r + i R (docs/semantics.md, Stripes).
static_assert(sp::striped{}.runs(10, 1, 4) == std::vector<run>{{1, 3, 4}} &&
              sp::striped{}.runs(10, 2, 4) == std::vector<run>{{2, 2, 4}});
static_assert(sp::striped{}.runs(2, 3, 4)[0].count == 0);
static_assert(sp::contiguous{}.runs(7, 3, 4) == std::vector<run>{{5, 2, 1}});
// USP (docs/semantics.md): zigzag over 2 x ring chunks first, then each shard in `ulysses` contiguous pieces of its local order.
static_assert(sp::nested{sp::zigzag{}, 2}.runs(16, 0, 4) == std::vector<run>{{0, 4, 1}} &&
              sp::nested{sp::zigzag{}, 2}.runs(16, 1, 4) == std::vector<run>{{12, 4, 1}});
static_assert(sp::nested{sp::zigzag{}, 4}.runs(16, 1, 8) == std::vector<run>{{2, 2, 1}});

static_assert(sp::sharding<sp::contiguous> && sp::sharding<sp::nested<sp::zigzag>> &&
              sp::sharding<sp::nested<sp::nested<sp::striped>>>);

// Near misses of the concept.
struct no_scope {
  std::vector<run> runs(index_t, index_t, index_t) const { return {}; }
};
struct no_runs {
  sp::scope over = sp::scope::stream;
};
struct mutable_runs {
  sp::scope over = sp::scope::stream;
  std::vector<run> runs(index_t, index_t, index_t) { return {}; }
};
struct two_numbers {
  sp::scope over = sp::scope::stream;
  std::vector<run> runs(index_t, index_t) const { return {}; }
};
struct wrong_result {
  sp::scope over = sp::scope::stream;
  int runs(index_t, index_t, index_t) const { return 0; }
};
static_assert(!sp::sharding<no_scope> && !sp::sharding<no_runs> && !sp::sharding<mutable_runs> && !sp::sharding<two_numbers> &&
              !sp::sharding<wrong_result> && !sp::sharding<int>);

/// A user's sharding made of a function.
template <class F>
struct made_by {
  F f;
  sp::scope over = sp::scope::document;
  std::vector<run> runs(index_t n, index_t part, index_t parts) const { return f(n, part, parts); }
};
template <class F>
made_by(F, sp::scope = sp::scope::document) -> made_by<F>;

TEST_CASE("shardings: every n <= 40 over every P <= 8 is a partition, S < P included [asan]") {
  for (index_t n = 0; n <= 40; ++n)
    for (index_t parts = 1; parts <= 8; ++parts) {
      CAPTURE(n);
      CAPTURE(parts);
      CHECK(is_partition(sp::contiguous{}, n, parts));
      CHECK(is_partition(sp::zigzag{}, n, parts));
      CHECK(is_partition(sp::striped{}, n, parts));
      CHECK(uneven(sp::contiguous{}, n, parts) <= 1);
      CHECK(uneven(sp::zigzag{}, n, parts) <= 2);
      CHECK(uneven(sp::striped{}, n, parts) <= 1);
    }
}

TEST_CASE("shardings: multiple() says which lengths are cut evenly") {
  auto even = [](auto const& how, index_t parts) {
    index_t m = how.multiple(parts);
    for (index_t times = 0; times <= 3; ++times)
      if (uneven(how, times * m, parts) != 0) return false;
    return true;
  };
  for (index_t parts = 1; parts <= 8; ++parts) {
    CHECK(even(sp::contiguous{}, parts));
    CHECK(even(sp::zigzag{}, parts));
    CHECK(even(sp::striped{}, parts));
    for (index_t inner = 1; inner <= parts; ++inner)
      if (parts % inner == 0) {
        CHECK(even(sp::nested{sp::zigzag{}, inner}, parts));
        CHECK(even(sp::nested{sp::striped{}, inner, parts / inner}, parts));
      }
  }
}

TEST_CASE("shardings: nested in every way that divides is a partition, and a group holds its outer shard in order") {
  index_t nestings = 0;
  auto check = [&](auto outer) {
    for (index_t parts = 1; parts <= 8; ++parts)
      for (index_t inner = 1; inner <= parts; ++inner)
        for (index_t stride = 1; inner * stride <= parts; ++stride) {
          if (parts % (inner * stride)) continue;
          sp::nested how{outer, inner, stride};
          ++nestings;
          for (index_t n = 0; n <= 40; n += n < 12 ? 1 : 7) {
            CHECK(is_partition(how, n, parts));
            for (index_t g = 0; g < parts / inner; ++g) {
              std::vector<index_t> joined; // members of group g, in order
              for (index_t m = 0; m < inner; ++m) {
                index_t first = g / stride * stride * inner + g % stride;
                for (index_t p : positions(how.runs(n, first + m * stride, parts))) joined.push_back(p);
              }
              CHECK(joined == positions(outer.runs(n, g, parts / inner)));
            }
          }
        }
  };
  check(sp::contiguous{});
  check(sp::zigzag{});
  check(sp::striped{});
  check(sp::nested{sp::zigzag{}, 1});
  CHECK(nestings > 100);
  CHECK(is_partition(sp::nested{sp::nested{sp::zigzag{}, 2}, 2}, 37, 8)); // three levels
}

TEST_CASE("shardings: ranks that do not divide into groups are refused with the numbers") {
  auto e = failure_of([] { return sp::nested{sp::zigzag{}, 4}.runs(16, 0, 6); });
  CHECK(says(e, errc::uneven_partition, "6 ranks", "groups of 4", "distance 1"));
  e = failure_of([] { return sp::nested{sp::zigzag{}, 2, 3}.runs(16, 0, 8); });
  CHECK(says(e, errc::uneven_partition, "8 ranks", "groups of 2", "distance 3"));
  e = failure_of([] { return sp::nested{sp::zigzag{}, 0}.runs(16, 0, 8); });
  CHECK(says(e, errc::uneven_partition, "8 ranks", "groups of 0"));
}

TEST_CASE("shardings: a user's own partition is accepted") {
  // odd positions to part 0, even ones to the others in turn
  made_by how{[](index_t n, index_t part, index_t parts) -> std::vector<run> {
    if (parts == 1) return {{0, n, 1}};
    if (part == 0) return {{1, n / 2, 2}};
    index_t even = (n + 1) / 2;
    return {{2 * (part - 1), even > part - 1 ? (even - part) / (parts - 1) + 1 : 0, 2 * (parts - 1)}};
  }};
  static_assert(sp::sharding<decltype(how)>);
  for (index_t n = 0; n <= 20; ++n)
    for (int parts = 1; parts <= 8; ++parts) {
      REQUIRE(is_partition(how, n, parts));
      sp::layout l(sp::packed{0, n, n + 3}, how, parts);
      index_t total = 0;
      for (int p = 0; p < parts; ++p) total += l.tokens(p);
      CHECK(total == n + 3);
    }
}

TEST_CASE("shardings: a user's sharding that overlaps, misses or strays is refused with the numbers") {
  auto refused = [](auto f) {
    made_by how{f};
    return failure_of([&] { return sp::layout(sp::packed{0, 10}, how, 3); });
  };
  using list = std::vector<run>;
  CHECK(says(refused([](index_t n, index_t, index_t) {
               return list{{0, n, 1}};
             }),
             errc::uneven_partition, "token 0 of 10 to two ranks"));
  CHECK(says(refused([](index_t n, index_t p, index_t) {
               return p == 0 ? list{{0, 5, 2}} : p == 1 ? list{{1, 3, 4}, {3, 3, 3}} : list{{0, n - n, 1}};
             }),
             errc::uneven_partition, "token 6 of 10 to two ranks"));
  CHECK(says(refused([](index_t n, index_t p, index_t) {
               return p < 2 ? list{{p * 5, 4, 1}} : list{{n, 0, 1}};
             }),
             errc::uneven_partition, "gives away 8 of 10 tokens"));
  CHECK(says(refused([](index_t n, index_t p, index_t) {
               return p == 2 ? list{{8, 3, 1}} : list{{p * 4, n / 10 * 4, 1}};
             }),
             errc::uneven_partition, "{8, 3, 1}", "outside [0, 10)"));
  CHECK(says(refused([](index_t, index_t p, index_t) { return list{{-1 + p, 1, 1}}; }), errc::uneven_partition, "{-1, 1, 1}"));
  CHECK(says(refused([](index_t, index_t, index_t) { return list{{0, 2, 0}}; }), errc::uneven_partition, "{0, 2, 0}"));
  CHECK(says(refused([](index_t, index_t, index_t) { return list{{0, -2, 1}}; }), errc::uneven_partition, "{0, -2, 1}"));
  CHECK(says(failure_of([] { return sp::layout(sp::packed{0, 4}, sp::zigzag{}, 0); }), errc::invalid_shape, "0 ranks"));
}

} // namespace
} // namespace test_shardings
