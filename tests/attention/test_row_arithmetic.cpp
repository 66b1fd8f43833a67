// What happens to whole rows beside the kernel: attention sinks and their gradient, against long double arithmetic, for scores and
// sinks far beyond what exp() can take. A row that sees nothing stays (0, -inf), whatever its sink.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include <sp/attention/row_arithmetic.hpp>

#include "support/tensors.hpp"

namespace test_row_arithmetic {
namespace {

using sp::index_t;
using support::tensor;

template <class A>
inline constexpr A inf = std::numeric_limits<A>::infinity();

/// log(e^a + e^b); b may be -inf.
long double log_sum(long double a, long double b) {
  return b > a ? b + std::log1p(std::exp(a - b)) : a + std::log1p(std::exp(b - a));
}

template <class A>
std::vector<A> scores() {
  return {-30000, -1000, -150, -101, -89, -3, 0, 2, 89, 101, 150, 1000, 30000};
}

/// One row and head for every pair of lse and sink: sinks are of (global) heads 2, 3, ..., the rows' heads.
template <class A>
struct rows {
  std::vector<A> sinks, lse, out, delta, dsinks;
  index_t heads, count;
  sp::heads on;

  rows() : sinks{9, 9} {
    std::vector<A> all = scores<A>();
    for (A s : all) sinks.push_back(s);
    sinks.push_back(-inf<A>); // a sink that takes nothing
    all.push_back(-inf<A>);   // a row that sees nothing
    heads = index_t(sinks.size()) - 2;
    count = index_t(all.size());
    for (A l : all)
      for (index_t h = 0; h < heads; ++h) {
        lse.push_back(l);
        delta.push_back(A(0.25) * A(h + 1));
        for (int e = 0; e < 2; ++e) out.push_back(l == -inf<A> ? 0 : A(1.5) - A(e));
      }
    dsinks.assign(sinks.size(), A(0.5));
    on = sp::heads{2, heads, 0, heads, 1};
  }
  void apply() {
    sp::detail::apply_sinks<A>(on, tensor<1>(sinks, {heads + 2}), tensor<3>(out, {count, heads, 2}),
                               tensor<2>(lse, {count, heads}));
  }
};

template <class A>
void check_sinks() {
  rows<A> const before;
  rows<A> after;
  after.apply();
  A const eps = std::numeric_limits<A>::epsilon();
  index_t wrong = 0, untouched = 0;
  std::vector<long double> gradients(before.sinks.size(), 0.5L);
  for (index_t i = 0; i < before.count; ++i)
    for (index_t h = 0; h < before.heads; ++h) {
      auto const at = std::size_t(i * before.heads + h);
      A const l = before.lse[at], s = before.sinks[std::size_t(h + 2)];
      if (l == -inf<A>) {
        untouched += after.lse[at] == l && after.out[2 * at] == 0 && after.out[2 * at + 1] == 0;
        continue;
      }
      long double const joined = log_sum(l, s), weight = std::exp(l - joined);
      wrong += !(std::fabs(after.lse[at] - joined) <= 2 * eps * std::fmax(1, std::fabs(joined)));
      // a weight is the exponential of a difference of two rounded numbers
      long double const bound = 4 * eps * std::fmax(1.0L, std::fabs(joined));
      for (std::size_t e = 0; e < 2; ++e) wrong += !(std::fabs(after.out[2 * at + e] - before.out[2 * at + e] * weight) <= bound);
      gradients[std::size_t(h + 2)] -= std::exp((long double)(s)-after.lse[at]) * before.delta[at];
    }
  CHECK(wrong == 0);
  CHECK(untouched == before.heads);
  index_t const n = before.heads;
  sp::detail::sink_gradient<A>(after.on, tensor<1>(after.sinks, {n + 2}), tensor<2>(after.lse, {after.count, n}),
                               tensor<2>(after.delta, {after.count, n}), tensor<1>(after.dsinks, {n + 2}));
  for (std::size_t h = 0; h < gradients.size(); ++h)
    CHECK(std::fabs(after.dsinks[h] - gradients[h]) <= 64 * eps * std::fmax(1, std::fabs(gradients[h])));
  CHECK(after.dsinks[0] == A(0.5)); // heads of other ranks are not touched
  CHECK(after.dsinks.back() == A(0.5));
}

} // namespace

TEST_CASE("rows: sinks and scores far beyond 100, of either sign, on rows that see something and rows that do not [asan]") {
  check_sinks<double>();
  check_sinks<float>();
}

TEST_CASE("rows: delta is the product of dout and out row by row, in any memory order [asan]") {
  std::vector<double> out{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, dout{2, -1, 0, 3, 1, -2, 1, 1, -1, 0, 5, 1}, delta(4);
  sp::view<double const, 3> const o(out.data(), {2, 2, 3}), reversed(dout.data() + 11, {2, 2, 3}, {-6, -3, -1});
  sp::detail::row_delta<double>(o, reversed, tensor<2>(delta, {2, 2}));
  CHECK(delta == std::vector<double>{1 * 1 + 2 * 5 + 0, 4 * -1 + 5 * 1 + 6 * 1, 7 * -2 + 8 * 1 + 9 * 3, 0 - 11 + 12 * 2});
}

} // namespace test_row_arithmetic
