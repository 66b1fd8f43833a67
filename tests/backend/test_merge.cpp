// merge: identity, nothing with nothing, extreme values, order. Against exact sums in double where there are any.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include <sp/backend/merge.hpp>

#include "support/counting_queue.hpp"

namespace test_merge {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

template <class T>
struct row {
  std::array<T, 2> out{};
  T lse = -static_cast<T>(inf);
  row() = default;
  row(double a, double b, double l) : out{T(a), T(b)}, lse(T(l)) {}
  friend bool operator==(row const&, row const&) = default;
};

template <class T>
row<T> operator+(row<T> a, row<T> b) {
  auto state = [](row<T>& r) { return sp::attention_state<T>{{r.out.data(), {1, 1, 2}}, {&r.lse, {1, 1}}}; };
  sp::merge(state(a), state(b));
  return a;
}

template <class T>
bool sane(row<T> const& r) {
  return std::isfinite(r.out[0]) && std::isfinite(r.out[1]) && !std::isnan(r.lse);
}

} // namespace

TEST_CASE("merge: (0, -inf) is the identity, on both sides and with itself [asan]") {
  row<float> none, x(1.5, -2, 3);
  CHECK(x + none == x);
  CHECK(none + x == x);
  CHECK(none + none == none);
  row<float> poisoned(NAN, NAN, -inf); // an lse of -inf says that out holds nothing
  CHECK(x + poisoned == x);
  CHECK(poisoned + x == x);
}

TEST_CASE("merge: two halves") {
  auto r = row<double>(1, 0, std::log(3.0)) + row<double>(0, 1, std::log(1.0));
  CHECK(r.out[0] == doctest::Approx(0.75).epsilon(1e-15));
  CHECK(r.out[1] == doctest::Approx(0.25).epsilon(1e-15));
  CHECK(r.lse == doctest::Approx(std::log(4.0)).epsilon(1e-15));
}

TEST_CASE("merge: extreme values") {
  for (double l : {-1e30, -1e4, -88.0, 0.0, 88.0, 1e4, 1e30})
    for (double m : {-1e30, -1e4, -88.0, 0.0, 88.0, 1e4, 1e30})
      for (double v : {1e30, -1e30, 3e38}) {
        auto r = row<float>(v, 1, l) + row<float>(-v, 1, m);
        CHECK(sane(r));
        CHECK(r.out[1] == doctest::Approx(1).epsilon(1e-6));
        CHECK(r.lse == (l == m ? float(l) + std::log(2.f) : doctest::Approx(std::max(l, m)).epsilon(1e-6)));
        if (l > m + 200) CHECK(r.out[0] == float(v)); // what weighs nothing leaves no trace
        if (l == m) CHECK(r.out[0] == 0);
      }
  CHECK(sane(row<float>(1, 1, 1e4) + row<float>(2, 2, -inf)));
}

TEST_CASE("merge: infinite scores: two of them share the weight, one takes it all, and nothing becomes NaN [asan]") {
  auto check = [](auto zero) {
    using T = decltype(zero);
    row<T> x(3, -8, inf), y(1, 4, inf), finite(100, 100, 5);
    CHECK(x + y == row<T>(2, -2, inf));
    CHECK(x + finite == x);
    CHECK(finite + x == x);
    CHECK(x + row<T>() == x);
  };
  check(0.0);
  check(0.0F);
}

TEST_CASE("merge: any order gives the same to rounding") {
  std::mt19937 gen(3);
  std::normal_distribution<double> normal;
  std::vector<row<double>> parts;
  for (int i = 0; i < 7; ++i) parts.emplace_back(normal(gen), normal(gen), i % 3 ? 8 * normal(gen) : -inf);
  double sum = 0;
  std::array<double, 2> exact{};
  for (auto const& p : parts) {
    sum += std::exp(p.lse);
    for (std::size_t c = 0; c < 2; ++c) exact[c] += std::exp(p.lse) * p.out[c];
  }
  for (int k = 0; k < 50; ++k) {
    std::shuffle(parts.begin(), parts.end(), gen);
    row<double> r;
    for (auto const& p : parts) r = r + p;
    CHECK(r.lse == doctest::Approx(std::log(sum)).epsilon(1e-14));
    for (std::size_t c = 0; c < 2; ++c) CHECK(r.out[c] == doctest::Approx(exact[c] / sum).epsilon(1e-13));
  }
}

/// Indices that merging 5 rows of 3 heads takes on a device, `dim` elements each, `skip` behind an aligned address and `step` apart:
/// with the bits of one element at a time.
sp::index_t taken(sp::index_t dim, sp::index_t skip, sp::index_t step) {
  using support::apart, support::in_memory;
  std::minstd_rand g(unsigned(8 * dim + skip));
  sp::index_t const row = dim * step;
  auto numbers = [&](std::size_t n) {
    std::vector<float> x(n);
    for (float& v : x) v = float(g() % 1000) / 100 - 5;
    return x;
  };
  auto const count = std::size_t(15 * row + skip);
  std::vector<float> a = numbers(count + 4), b = numbers(count + 4), a_lse = numbers(15), b_lse = numbers(15);
  a_lse[3] = b_lse[4] = a_lse[7] = b_lse[7] = -float(inf);
  auto tensor = [&](std::vector<float>& x) {
    auto const to_aligned = sp::index_t((16 - reinterpret_cast<std::uintptr_t>(x.data()) % 16) % 16 / sizeof(float));
    return sp::view<float, 3>(x.data() + (to_aligned + skip) % 4, {5, 3, dim}, {3 * row, row, step});
  };
  auto host = a, host_lse = a_lse;
  sp::attention_state<float> const other{tensor(b), {b_lse.data(), {5, 3}}};
  sp::merge(sp::attention_state<float>{tensor(host), {host_lse.data(), {5, 3}}}, other);
  support::counted_work work;
  sp::merge<float>(support::counting_queue<apart>(work),
                   {in_memory<apart>(tensor(a)), in_memory<apart>(sp::view<float, 2>(a_lse.data(), {5, 3}))},
                   {in_memory<apart>(other.out), in_memory<apart>(other.lse)});
  CHECK(a_lse == host_lse);
  auto const found = tensor(a), expected = tensor(host);
  for (sp::index_t i = 0; i < 5; ++i)
    for (sp::index_t h = 0; h < 3; ++h)
      for (sp::index_t c = 0; c < dim; ++c) CHECK(found(i, h, c) == expected(i, h, c));
  return work.indices;
}

TEST_CASE("merge: a queue of a device takes four elements at once, with the bits of one at a time [asan]") {
  CHECK(taken(8, 0, 1) == 15 * 2 + 15);
  CHECK(taken(8, 1, 1) == 15 * 2 + 15); // one by one, where the address is
  CHECK(taken(6, 0, 1) == 15);
  CHECK(taken(8, 0, 2) == 15);
}

} // namespace test_merge
