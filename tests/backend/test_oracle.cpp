// The oracle against a second opinion: its gradients are central differences of its output, its output sums as it must.
#include <doctest/doctest.h>

#include <random>

#include "support/oracle.hpp"

namespace test_oracle {
namespace {

using support::count_t;
using support::oracle;

std::vector<double> noise(std::size_t n, unsigned seed) {
  std::mt19937 gen(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(n);
  for (double& e : x) e = normal(gen);
  return x;
}

double dot(std::vector<double> const& a, std::vector<double> const& b) {
  double s = 0;
  for (std::size_t i = 0; i < a.size(); ++i) s += a[i] * b[i];
  return s;
}

oracle tiny(unsigned seed) {
  oracle o(5, 6, 4, 2, 3, 2);
  o.q = noise(o.q.size(), seed);
  o.k = noise(o.k.size(), seed + 1);
  o.v = noise(o.v.size(), seed + 2);
  o.see([](count_t i, count_t j) { return j <= i + 1 && i != 2; }); // row 2 sees nothing
  return o;
}

/// Largest difference between `gradient` and central differences of <out, dout> with respect to `x`.
double off(oracle& o, std::vector<double>& x, std::vector<double> const& gradient, std::vector<double> const& dout) {
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    double h = 1e-5, kept = x[i];
    x[i] = kept + h;
    double up = dot(o.forward().out, dout);
    x[i] = kept - h;
    double down = dot(o.forward().out, dout);
    x[i] = kept;
    worst = std::fmax(worst, std::fabs((up - down) / (2 * h) - gradient[i]));
  }
  return worst;
}

void check_gradients(oracle o) {
  auto dout = noise(static_cast<std::size_t>(o.q_rows * o.q_heads * o.value_dim), 77);
  auto r = o.backward(dout);
  CHECK(off(o, o.q, r.dq, dout) < 1e-8);
  CHECK(off(o, o.k, r.dk, dout) < 1e-8);
  CHECK(off(o, o.v, r.dv, dout) < 1e-8);
  if (!o.sinks.empty()) CHECK(off(o, o.sinks, r.dsinks, dout) < 1e-8);
}

} // namespace

TEST_CASE("oracle: gradients are central differences") {
  check_gradients(tiny(1));
  oracle capped = tiny(2);
  capped.softcap = 1.5;
  check_gradients(capped);
  oracle biased = tiny(3);
  biased.slopes = {0.5, 0.25, 0.125, 0.0625};
  check_gradients(biased);
  oracle sunk = tiny(4);
  sunk.sinks = {0.3, -1, 0, 2};
  check_gradients(sunk);
  oracle all = tiny(5);
  all.softcap = 2;
  all.slopes = {0.5, 0.25, 0.125, 0.0625};
  all.sinks = {0.3, -1, 0, 2};
  all.keep = [](count_t, count_t h, count_t i, count_t j) { return (h + i + 2 * j) % 3 == 0 ? 0.0 : 1.5; };
  check_gradients(all);
}

TEST_CASE("oracle: what is known without computing") {
  oracle o = tiny(6);
  for (double& x : o.v) x = 1; // an average of ones
  auto r = o.forward();
  for (count_t i = 0; i < o.q_rows; ++i)
    for (count_t e = 0; e < o.q_heads * o.value_dim; ++e)
      CHECK(r.out[static_cast<std::size_t>(i * o.q_heads * o.value_dim + e)] == doctest::Approx(i == 2 ? 0 : 1));
  CHECK(r.lse[2 * 4] == -std::numeric_limits<double>::infinity());
  for (double& x : o.q) x = 0; // equal scores: lse is the logarithm of the number of keys
  CHECK(o.forward().lse[4 * 4] == doctest::Approx(std::log(6.0)));
  CHECK(o.forward().lse[0] == doctest::Approx(std::log(2.0)));
  o.sinks = {0, 0, 0, 0}; // one more equal score
  CHECK(o.forward().lse[0] == doctest::Approx(std::log(3.0)));
  CHECK(o.forward().out[0] == doctest::Approx(2.0 / 3));
  CHECK(o.forward().lse[2 * 4] == doctest::Approx(0)); // the sink alone
}

TEST_CASE("oracle: relative error") {
  double inf = std::numeric_limits<double>::infinity();
  CHECK(support::relative_error(std::vector<double>{3, 4.5}, {3, 4}) == doctest::Approx(0.1));
  CHECK(support::relative_error(std::vector<double>{-inf, 1}, {-inf, 1}) == 0);
  CHECK(support::relative_error(std::vector<double>{0, 1}, {-inf, 1}) == inf);
  CHECK(std::isnan(support::relative_error(std::vector<double>{std::nan(""), 1}, {1, 1})));
}

} // namespace test_oracle
