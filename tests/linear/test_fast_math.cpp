// Sums of log decays in programs compiled with -Ofast: they are as exact as they are without, though the compiler may reassociate.
// What one sum rounds away is held in a second one.
// flags: -Ofast
#include <doctest/doctest.h>

#include <vector>

#include <sp/linear/cpu/chunk.hpp>

namespace test_fast_math {
namespace {

/// Largest error of the sum of -2000 and a thousand of -1e-4, as two numbers.
template <class A>
double error_of_sums() {
  using V = sp::detail::simd<A>;
  std::vector<A> parts(2 * std::size_t(V::lanes));
  V high(A(0)), low(A(0));
  long double exact = 0;
  for (int i = 0; i < 1001; ++i) {
    A const g = i == 0 ? A(-2000) : A(-1e-4);
    exact += static_cast<long double>(g);
    sp::detail::add_log(high, low, V(g));
    if (i == 0) {
      V const first = high; // what is decayed to nothing is cut off
      first.store(parts.data());
      exact = static_cast<long double>(parts[0]);
    }
  }
  high.store(parts.data()), low.store(parts.data() + V::lanes);
  double worst = 0;
  for (sp::index_t i = 0; i < V::lanes; ++i) {
    double const e = double(static_cast<long double>(parts[std::size_t(i)]) + parts[std::size_t(i + V::lanes)] - exact);
    worst = e > worst ? e : -e > worst ? -e : worst;
  }
  return worst;
}

} // namespace

TEST_CASE("linear kernels: with -Ofast, sums of log decays lose nothing") {
  CHECK(error_of_sums<float>() < 1e-6);
  CHECK(error_of_sums<double>() < 1e-13);
}

} // namespace test_fast_math
