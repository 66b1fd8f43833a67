// The oracle of linear attention itself: its backward pass against central differences, in tiny cases of every kind.
#include <doctest/doctest.h>

#include <random>

#include "linear/recurrence.hpp"

namespace test_recurrence {
namespace {

using namespace linear_tests;

std::mt19937 generator(5);

template <class Draw>
table<double> drawn(std::size_t rows, std::size_t width, Draw&& draw) {
  table<double> t(rows, width);
  for (double& x : t.x) x = draw();
  return t;
}
double normal() { return std::normal_distribution<double>()(generator); }

/// sum of outputs times their gradients.
double loss(head_inputs<double> const& in, bool normalise, head_outputs<double> const& d) {
  recurrence<double> const r(in, normalise, 0.7);
  double sum = 0;
  for (std::size_t i = 0; i < d.out.x.size(); ++i) sum += d.out.x[i] * r.result.out.x[i];
  for (std::size_t i = 0; i < d.s.x.size(); ++i) sum += d.s.x[i] * r.result.s.x[i];
  return sum;
}

TEST_CASE("linear recurrence: its gradients are those of central differences") {
  for (bool const delta : {false, true})
    for (bool const normalise : {false, true}) {
      auto log_decay = [] { return -std::abs(normal()) / 2; };
      head_inputs<double> in{drawn(5, 3, normal), drawn(5, 3, normal), drawn(5, 2, normal), drawn(5, 3, log_decay), {},
                             drawn(3, 2, normal)};
      if (delta) in.b = {0.3, 1.9, 0, 1, 0.7};
      head_outputs<double> const d{drawn(5, 2, normal), drawn(3, 2, normal)};
      head_inputs<double> const gradient = recurrence<double>(in, normalise, 0.7).backward(d);
      auto agree = [&](std::vector<double>& x, std::vector<double> const& expected) {
        for (std::size_t i = 0; i < x.size(); ++i) {
          double const h = 1e-5, old = x[i];
          x[i] = old + h;
          double const up = loss(in, normalise, d);
          x[i] = old - h;
          double const down = loss(in, normalise, d);
          x[i] = old;
          CHECK((up - down) / (2 * h) == doctest::Approx(expected[i]).epsilon(1e-8));
        }
      };
      agree(in.q.x, gradient.q.x), agree(in.k.x, gradient.k.x), agree(in.v.x, gradient.v.x);
      agree(in.g.x, gradient.g.x), agree(in.b, gradient.b), agree(in.s.x, gradient.s.x);
    }
}

TEST_CASE("linear recurrence: by hand") {
  table<double> q(2, 1), k(2, 1), v(2, 1), g(2, 1), s(1, 1);
  q.x = {1, 2}, k.x = {0.5, 1}, v.x = {3, -1}, g.x = {0, -INFINITY}, s.x = {4};
  recurrence<double> const decayed({q, k, v, g, {}, s}, false, 2);
  CHECK(decayed.result.out.x == std::vector<double>{11, -4});
  recurrence<double> const corrected({q, k, v, g, {1, 0.5}, s}, false, 1);
  CHECK(corrected.result.out.x == std::vector<double>{4.5, -1}); // 4 + 0.5 (3 - 2), then 0.5 (-1 - 0) read twice
}

} // namespace
} // namespace test_recurrence
