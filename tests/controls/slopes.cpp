// The check of the trainers that compares gradients with differences of the loss, checked: it takes right gradients and no others.
// The loss is a sum that is known in closed form; exit code 0 when all is told apart.
#include <cmath>
#include <cstdio>

#include "model/parameters.hpp"
#include "training/slopes.hpp"

int main() {
  using trainer::gradient_error;
  trainer::parameter_table const table(
      {.dim = 8, .layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 4, .hidden = 8, .delta = {}});
  std::vector<double> weights(std::size_t(table.size())), right(weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = std::sin(double(i));
  auto const loss = [&] {
    double sum = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) sum += double(i % 7 + 1) / 7 * std::cos(weights[i]);
    return sum / double(weights.size());
  };
  for (std::size_t i = 0; i < weights.size(); ++i)
    right[i] = -double(i % 7 + 1) / 7 * std::sin(weights[i]) / double(weights.size());

  double const error = gradient_error(table, weights, right, loss);
  std::printf("right gradients: %.1e\n", error);
  bool good = error <= trainer::bound_of_slopes;
  for (trainer::parameter const& p : table.all()) { // one after the other is off by a millionth
    std::vector<double> wrong = right;
    for (sp::index_t i = p.offset; i < p.offset + p.size(); ++i) wrong[std::size_t(i)] *= 1 + 1e-6;
    double const found = gradient_error(table, weights, wrong, loss);
    std::printf("%s off by 1e-6: %.1e\n", p.name.c_str(), found);
    good = good && found > 1e-7; // the widest bound
  }
  return good ? 0 : 1;
}
