// Views: offsets, slices and flattening of any strides, at compile time and against plain loops.
// Views of different memories are different types; a view of values becomes one of const values and not back.
#include <doctest/doctest.h>

#include <array>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include <sp/core/view.hpp>

#include "support/failure.hpp"

namespace test_view {
namespace {

using sp::errc;
using sp::index_t;
using sp::view;
using support::failure_of;
using support::says;

static_assert(std::is_convertible_v<view<float, 2>, view<float const, 2>> &&
              !std::is_convertible_v<view<float const, 2>, view<float, 2>>);
static_assert(!std::is_convertible_v<view<float, 2, sp::device_memory>, view<float, 2, sp::host_memory>> &&
              !std::is_convertible_v<view<float, 2>, view<double const, 2>>);
static_assert(!std::is_convertible_v<view<float, 2>, view<float, 3>>);
// what cannot be made of a pointer says so to traits and to overload resolution
static_assert(std::is_constructible_v<view<float const, 2>, float*, int, int> &&
              !std::is_constructible_v<view<float, 2>, float const*, int, int> &&
              !std::is_constructible_v<view<float, 2>, void*, std::array<index_t, 2>>);
[[maybe_unused]] constexpr bool written(view<float, 2>) { return true; }
constexpr bool written(view<float const, 2>) { return false; }
constexpr float const* only_read = nullptr;
static_assert(!written({only_read, 4, 8}) && !written({only_read, {4, 8}}));
static_assert(std::is_trivially_copyable_v<view<float, 3>> && view<float, 3>::rank == 3);
static_assert(std::is_same_v<view<float const, 1>::value_type, float> &&
              std::is_same_v<view<float, 1, sp::device_memory>::memory_type, sp::device_memory>);

constexpr int sum_of_third_row() {
  std::array<int, 12> v{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  view<int, 2> a(v.data(), {4, 3});
  a(2, 1) = 100;
  return a.rows(2, 1)(0, 0) + v[7] + a(2, 2);
}
static_assert(sum_of_third_row() == 6 + 100 + 8);
static_assert(view<int, 3>(nullptr, {4, 3, 2}).strides == std::array<index_t, 3>{6, 2, 1});
static_assert(view<int, 3>(nullptr, {4, 0, 2}).empty() && view<int, 3>(nullptr, {4, 0, 2}).elements() == 0);
static_assert(view<int, 2>(nullptr, {3, 4}).narrow(1, 1, 2).offset(2, 1) == 9 - 0); // null stays null, strides stay

TEST_CASE("view: every slice of a tensor shows its elements, with steps, broadcast and reversed strides") {
  std::vector<int> values(5 * 4 * 3);
  std::iota(values.begin(), values.end(), 0);
  view<int, 3> a(values.data(), {5, 4, 3});
  CHECK(a.dense());
  int wrong = 0;
  for (int d = 0; d < 3; ++d)
    for (index_t begin = 0; begin < a.extent(d); ++begin)
      for (index_t step = 1; step <= 3; ++step)
        for (index_t count = 0; begin + (count - 1) * step < a.extent(d); ++count) {
          auto b = a.narrow(d, begin, count, step);
          for (index_t i = 0; i < b.extent(0); ++i)
            for (index_t j = 0; j < b.extent(1); ++j)
              for (index_t k = 0; k < b.extent(2); ++k) {
                std::array<index_t, 3> at{i, j, k};
                at[std::size_t(d)] = begin + at[std::size_t(d)] * step;
                wrong += b(i, j, k) == int((at[0] * 4 + at[1]) * 3 + at[2]) ? 0 : 1;
              }
        }
  CHECK(wrong == 0);
  CHECK(!a.narrow(1, 0, 2).dense());
  CHECK(a.rows(1, 3).dense());
  CHECK(a.rows(4, 1, 7).dense()); // the stride of a single row does not matter

  view<int, 2> broadcast(values.data() + 2, {7, 3}, {0, 1}), reversed(values.data() + 9, {4, 1}, {-3, 1});
  CHECK(broadcast(6, 2) == 4);
  CHECK(reversed(3, 0) == 0);
  CHECK(!broadcast.dense());
}

TEST_CASE("view: slicing nothing or null moves no pointer [asan]") {
  view<int, 2> none(nullptr, {0, 4});
  CHECK(none.rows(0, 0).data == nullptr);
  CHECK(none.narrow(1, 2, 2).data == nullptr);
  int x = 3;
  view<int, 1> one(&x, {1});
  CHECK(one.rows(1, 0).data == &x); // behind the end: stays inside
}

TEST_CASE("view: shapes in messages") {
  CHECK(sp::shape(view<float, 3>(nullptr, {4096, 8, 64})) == "(4096, 8, 64)");
  CHECK(sp::shape(view<float, 1>(nullptr, {0})) == "(0)");
}

TEST_CASE("view: a rectangular batch is one stream where its strides say so") {
  std::vector<int> values(2 * 3 * 4);
  std::iota(values.begin(), values.end(), 0);
  view<int, 3> a(values.data(), {2, 3, 4});
  auto f = sp::flatten(a);
  CHECK(f.extents == std::array<index_t, 2>{6, 4});
  CHECK(f(4, 1) == a(1, 1, 1));
  // rows with padding behind each, but none between batches
  view<int, 3> padded(values.data(), {2, 3, 2}, {12, 4, 1});
  CHECK(sp::flatten(padded)(5, 1) == 21);
  view<int, 3> gap(values.data(), {2, 2, 4}, {12, 4, 1});
  CHECK(says(failure_of([&] { return sp::flatten(gap); }), errc::invalid_shape, "(2, 2, 4)", "not one behind the other"));
  CHECK(sp::flatten(gap.rows(0, 1)).extent(0) == 2); // one batch row has no batch stride
  CHECK(sp::flatten(view<int, 3>(nullptr, {2, 0, 4})).extent(0) == 0);
  // decode: one token per batch row, at any distance
  view<int, 3> decode(values.data() + 2, {2, 1, 4}, {12, 4, 1});
  CHECK(sp::flatten(decode).strides == std::array<index_t, 2>{12, 1});
  CHECK(sp::flatten(decode)(1, 3) == decode(1, 0, 3));
  CHECK(sp::flatten(view<int, 3>(values.data(), {1, 1, 4}, {0, 4, 1})).stride(0) == 4);
  view<int, 3> wraps(nullptr, {2, 4, 1}, {0, index_t{1} << 62, 1}); // tokens times their stride is 2^64, which is not 0
  CHECK(failure_of([&] { return sp::flatten(wraps); }).code == errc::size_overflow);
}

TEST_CASE("view: more elements than int64 counts is size_overflow") {
  CHECK(failure_of([] {
          return view<int, 2>(nullptr, {index_t{1} << 32, index_t{1} << 32}).strides;
        }).code == errc::size_overflow);
  CHECK(failure_of([] {
          return view<int, 2>(nullptr, {index_t{1} << 32, index_t{1} << 32}, {0, 0}).elements();
        }).code == errc::size_overflow);
}

} // namespace
} // namespace test_view
