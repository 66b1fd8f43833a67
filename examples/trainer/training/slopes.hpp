// Hand-written gradients against differences of the loss, parameter by parameter.
// What a wrong backward pass and every strategy have in common, no comparison of strategies would show.
#pragma once

#include <limits>

#include <sp/core/philox.hpp>

#include "training/compare.hpp"

namespace trainer {

/// The largest error over all parameters, relative to the norm of the parameter's gradient. Each moves along a direction of its own, which has
/// a part of its gradient and a part of random signs; the slope of loss() by seven points against the gradient's. Where the loss bends, points
/// that are nearer may do better than those further apart, and a wrong gradient agrees with neither. Weights come back as they were.
template <class Numbers, class Loss>
double gradient_error(parameter_list const& table, Numbers& weights, Numbers const& gradients, Loss const& loss) {
  using T = typename Numbers::value_type;
  double worst = 0;
  for (parameter const& p : table.all()) {
    double norm = 0, slope = 0;
    for (index_t i = p.offset; i < p.offset + p.size(); ++i) norm += std::pow(double(gradients[std::size_t(i)]), 2);
    norm = std::sqrt(norm);
    Numbers way(std::size_t(p.size()));
    for (index_t i = 0; i < p.size(); ++i) {
      auto const bits = sp::philox({std::uint32_t(i), 0, 0, 1}, {std::uint32_t(p.offset), 7});
      T const g = gradients[std::size_t(p.offset + i)];
      way[std::size_t(i)] = g / T(norm) + (bits[0] % 2 ? T(1) : T(-1)) / std::sqrt(T(p.size()));
      slope += double(g) * double(way[std::size_t(i)]);
    }
    auto const at = [&](double h) {
      auto const before = weights;
      for (index_t i = 0; i < p.size(); ++i) weights[std::size_t(p.offset + i)] += T(h) * way[std::size_t(i)];
      double const found = loss();
      weights = before;
      return found;
    };
    double error = std::numeric_limits<double>::infinity(); // not a number where a gradient is 0 everywhere
    for (double h : {1e-3, 1e-4, 1e-5}) {
      double const found = (45 * (at(h) - at(-h)) - 9 * (at(2 * h) - at(-2 * h)) + at(3 * h) - at(-3 * h)) / (60 * h);
      if (double const e = std::abs(found - slope) / norm; !(e >= error)) error = e;
      if (!(error > bound_of_slopes / 10)) break;
    }
    worst = larger(worst, error);
  }
  return worst;
}

} // namespace trainer
