// AdamW with decoupled weight decay, and clipping by the norm of the whole gradient.
// Every rank holds the same summed gradient and therefore takes the same step: nothing is exchanged here.
#pragma once

#include <algorithm>
#include <numbers>
#include <span>

#include "model/parameters.hpp"

namespace trainer {

/// Norm of a flat gradient, summed in double in a fixed order.
template <class T>
double norm_of(std::span<T const> gradient) {
  double sum = 0;
  for (T g : gradient) sum += double(g) * double(g);
  return std::sqrt(sum);
}

template <class T>
class adamw {
public:
  adamw(double weight_decay, double clip, parameter_list const& table)
      : weight_decay_(weight_decay), clip_(clip), table_(table.all()), mean_(std::size_t(table.size())), square_(mean_.size()) {}

  /// One step with learning rate `rate`. `norm` is the gradient's: a longer gradient than `clip` is scaled down to it.
  void step(std::span<T> weights, std::span<T const> gradient, double norm, double rate) {
    ++steps_;
    double scale = norm > clip_ ? clip_ / norm : 1;
    double first = 1 - std::pow(beta1, steps_), second = 1 - std::pow(beta2, steps_);
    for (parameter const& p : table_) {
      T keep = T(1 - (p.decays() ? rate * weight_decay_ : 0));
      for (auto i = std::size_t(p.offset); i < std::size_t(p.offset + p.size()); ++i) {
        T g = T(scale) * gradient[i];
        mean_[i] += T(1 - beta1) * (g - mean_[i]);
        square_[i] += T(1 - beta2) * (g * g - square_[i]);
        weights[i] = keep * weights[i] - T(rate / first) * mean_[i] / (std::sqrt(square_[i] / T(second)) + T(epsilon));
      }
    }
  }

private:
  static constexpr double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay_, clip_;
  std::vector<parameter> table_;
  std::vector<T> mean_, square_;
  int steps_ = 0;
};

/// A short warm-up to `highest`, then a cosine down to a tenth.
inline double learning_rate(double highest, int step, int steps) {
  double warm = std::min(1.0, double(step + 1) / 5.0);
  double along = steps > 1 ? double(step) / double(steps - 1) : 0;
  return highest * warm * (0.55 + 0.45 * std::cos(std::numbers::pi * along));
}

} // namespace trainer
