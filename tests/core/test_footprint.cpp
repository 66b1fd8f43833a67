// Footprints against the set of addresses that each tensor touches, for all small extents, strides of either sign and offsets.
// Never is an overlap missed; and what a fused projection writes side by side in one tensor is never taken for one.
#include <doctest/doctest.h>

#include <bitset>
#include <string>
#include <vector>

#include <sp/core/footprint.hpp>

#include "support/failure.hpp"

namespace test_footprint {
namespace {

using sp::index_t;
using sp::view;
using sp::detail::footprint;
using support::failure_of;
using support::says;

constexpr std::size_t room = 128; ///< elements around the origin; every tensor here stays inside
using addresses = std::bitset<room>;

/// A tensor of shorts in a memory of its own, with the elements it touches counted one by one.
struct tensor {
  addresses touched;
  bool twice = false; ///< two of its elements share memory
  footprint print;

  template <int Rank>
  explicit tensor(view<short, Rank> const& v) : print("tensor", v) {
    index_t n = 1;
    for (index_t e : v.extents) n *= e;
    for (index_t i = 0; i < n; ++i) {
      index_t at = v.data - memory(), rest = i;
      for (int d = Rank; d-- > 0; rest /= v.extent(d)) at += rest % v.extent(d) * v.stride(d);
      twice = twice || touched[std::size_t(at)];
      touched.set(std::size_t(at));
    }
  }
  static short* memory() {
    static short all[room];
    return all;
  }
};

template <int Rank>
view<short, Rank> at(index_t offset, std::array<index_t, std::size_t(Rank)> extents,
                     std::array<index_t, std::size_t(Rank)> strides) {
  return {tensor::memory() + room / 2 + offset, extents, strides};
}

/// Every (2 or 3 x 1 to 3) tensor whose strides are -7..7 and -3..3, at `offsets` places.
std::vector<tensor> all_matrices(index_t offsets) {
  std::vector<tensor> out;
  for (index_t offset = 0; offset < offsets; ++offset)
    for (index_t rows : {2, 3})
      for (index_t columns : {1, 2, 3})
        for (index_t a = -7; a <= 7; ++a)
          for (index_t b = -3; b <= 3; ++b)
            if (columns > 1 || b == 1) out.emplace_back(at<2>(offset, {rows, columns}, {a, b}));
  return out;
}

} // namespace

TEST_CASE("footprint: no overlap of two small matrices is missed, whatever their strides and offsets [asan]") {
  auto const first = all_matrices(1), second = all_matrices(8);
  index_t missed = 0, apart = 0, shared = 0;
  for (tensor const& a : first)
    for (tensor const& b : second) {
      bool const share = (a.touched & b.touched).any();
      missed += share && !(a.print.meets(b.print) && b.print.meets(a.print));
      shared += share;
      apart += !a.print.meets(b.print);
    }
  CHECK(missed == 0);
  CHECK(shared > 400000);
  CHECK(apart > 40000); // the test would also pass if everything met everything
}

TEST_CASE("footprint: a tensor two of whose elements share memory says so [asan]") {
  index_t missed = 0, twice = 0, doubted = 0;
  auto count = [&](tensor const& t) {
    missed += t.twice && !t.print.overlaps_itself;
    twice += t.twice;
    doubted += t.print.overlaps_itself && !t.twice;
  };
  for (tensor const& t : all_matrices(1)) count(t);
  for (index_t a = -9; a <= 9; ++a)
    for (index_t b = -5; b <= 5; ++b)
      for (index_t c = -3; c <= 3; ++c)
        for (index_t rows : {1, 2, 3}) count(tensor(at<3>(0, {rows, 2, 3}, {a, b, c})));
  CHECK(missed == 0);
  CHECK(twice > 1000);
  // rows that lead past each other without meeting count as an overlap: elements 0 2 4 and 3 5 7
  CHECK(doubted > 0);
  CHECK(tensor(at<2>(0, {2, 3}, {3, 2})).print.overlaps_itself);
}

TEST_CASE("footprint: three dimensions and other memory orders, drawn [asan]") {
  unsigned state = 1;
  auto draw = [&](index_t lo, index_t hi) {
    state = state * 1664525u + 1013904223u;
    return lo + index_t(state >> 8) % (hi - lo + 1);
  };
  auto some = [&] {
    index_t const inner = draw(1, 2), middle = draw(1, 6), sign = draw(0, 1) ? 1 : -1;
    return tensor(
        at<3>(draw(-4, 4), {draw(1, 3), draw(1, 3), draw(1, 2)}, {sign * (middle * draw(1, 3) + draw(0, 1)), middle, inner}));
  };
  index_t missed = 0, shared = 0, apart = 0;
  for (int i = 0; i < 20000; ++i) {
    tensor const a = some(), b = some();
    bool const share = (a.touched & b.touched).any();
    missed += share && !a.print.meets(b.print);
    missed += a.twice && !a.print.overlaps_itself;
    shared += share;
    apart += !share && !a.print.meets(b.print);
  }
  CHECK(missed == 0);
  CHECK(shared > 5000);
  CHECK(apart > 2000);
}

TEST_CASE("footprint: heads side by side in the rows of one tensor are told apart exactly, forwards and backwards [asan]") {
  constexpr index_t rows = 3, heads = 5, dim = 2;
  index_t wrong = 0, seen = 0;
  for (index_t direction : {1, -1}) {
    auto part = [&](index_t first, index_t count) {
      index_t const origin = direction > 0 ? 0 : (rows - 1) * heads * dim;
      return tensor(at<3>(origin + first * dim - 20, {rows, count, dim}, {direction * heads * dim, dim, 1}));
    };
    for (index_t a = 0; a < heads; ++a)
      for (index_t n = 1; a + n <= heads; ++n)
        for (index_t b = 0; b < heads; ++b)
          for (index_t m = 1; b + m <= heads; ++m, ++seen) {
            tensor const x = part(a, n), y = part(b, m);
            wrong += x.print.overlaps_itself || x.print.meets(y.print) != (a < b + m && b < a + n);
          }
  }
  CHECK(wrong == 0);
  CHECK(seen == 450);
}

TEST_CASE("footprint: what is empty or null meets nothing, and refusals name both tensors [asan]") {
  auto q = at<2>(0, {3, 4}, {4, 1}), none = at<2>(0, {0, 4}, {4, 1});
  view<short, 2> const null;
  CHECK(!footprint("none", none).meets(footprint("q", q)));
  CHECK(!footprint("null", null).meets(footprint("q", q)));
  auto refused = [](auto const& written, auto const& other, auto const& read) {
    return failure_of([&] { return sp::detail::refuse_aliasing({{"dq", written}, {"dk", other}}, {{"dout", read}}), 0; });
  };
  auto far = at<2>(20, {2, 4}, {4, 1}), further = at<2>(40, {2, 4}, {4, 1});
  CHECK(says(refused(q, q, far), sp::errc::aliasing, "dq overlaps dk"));
  CHECK(says(refused(q, far, q), sp::errc::aliasing, "dq overlaps dout"));
  CHECK(says(refused(far, q, q), sp::errc::aliasing, "dk overlaps dout"));
  sp::detail::refuse_aliasing({{"dq", q}, {"dk", far}}, {{"dout", further}, {"sinks", null}, {"dv", none}});
}

} // namespace test_footprint
