// The judgement: every run against the one-rank run of the same number type, with the bounds that must hold.
// Loss curves alone would be blind (AdamW hides a wrong scale), so gradient norms and the first gradients are compared too.
#pragma once

#include <algorithm>
#include <cmath>

#include <fmt/core.h>

#include "model/parameters.hpp"
#include "training/outcome.hpp"

namespace trainer {

/// The larger one, NaN above everything.
inline double larger(double a, double b) { return std::isnan(a) || a > b ? a : b; }

/// |a - b| over |b|, step by step, of the first `steps` at most. A value far below the largest of them is measured by a hundredth of
/// that: a loss that has gone to zero has no digits left to agree in.
inline std::vector<double> relative(std::vector<double> const& a, std::vector<double> const& b, int steps) {
  std::size_t const n = std::min({a.size(), b.size(), std::size_t(steps)});
  double largest = 0;
  for (std::size_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(b[i]));
  std::vector<double> out;
  for (std::size_t i = 0; i < n; ++i) out.push_back(std::abs(a[i] - b[i]) / std::max({std::abs(b[i]), 0.01 * largest, 1e-300}));
  return out;
}

inline double largest_relative(std::vector<double> const& a, std::vector<double> const& b, int steps) {
  double worst = 0;
  for (double d : relative(a, b, steps)) worst = larger(worst, d);
  return worst;
}

/// Step by step the larger difference of the two: loss or gradient norm.
inline std::vector<double> difference_by_step(outcome const& run, outcome const& one, int steps) {
  std::vector<double> worst = relative(run.losses, one.losses, steps), norms = relative(run.norms, one.norms, steps);
  for (std::size_t s = 0; s < worst.size(); ++s) worst[s] = larger(worst[s], norms[s]);
  return worst;
}

/// Largest over the model's matrices of |a - b| / |b|, Euclidean norms.
inline double largest_by_norm(std::vector<double> const& a, std::vector<double> const& b, parameter_list const& table) {
  double worst = 0;
  for (parameter const& p : table.all()) {
    double off = 0, all = 0;
    for (auto i = std::size_t(p.offset); i < std::size_t(p.offset + p.size()); ++i) {
      off += (a[i] - b[i]) * (a[i] - b[i]);
      all += b[i] * b[i];
    }
    if (off != 0) worst = larger(worst, std::sqrt(off / std::max(all, 1e-300)));
  }
  return worst;
}

/// Fills in the differences, over the first `steps` at most; `one` is the one-rank run.
inline void compare(outcome& run, outcome const& one, parameter_list const& table, int steps) {
  run.loss_difference = largest_relative(run.losses, one.losses, steps);
  run.norm_difference = largest_relative(run.norms, one.norms, steps);
  run.gradient_difference = largest_by_norm(run.gradients, one.gradients, table);
}

/// What relative difference a number type is allowed. In bf16 the ranks of a ring round at other places than one rank does.
inline double bound_of(std::string const& type) {
  if (type == "bf16") return 1e-2;
  return type == "double" ? 1e-9 : 1e-4;
}

/// What is called the final loss everywhere: the mean of the last three steps (of all, if there are fewer), because steps see
/// different text.
inline double final_loss(outcome const& run) {
  std::size_t n = std::min<std::size_t>(3, run.losses.size());
  double sum = 0;
  for (std::size_t i = run.losses.size() - n; i < run.losses.size(); ++i) sum += run.losses[i];
  return sum / double(n);
}

/// Where the final loss must be, as a part of the first step's. A run of a few steps only has to go down at all; from fewer than
/// six nothing is required (infinity).
inline double required_fall(std::size_t steps) {
  return steps >= 30 ? 0.8 : steps >= 6 ? 1.0 : std::numeric_limits<double>::infinity();
}

/// Adds one sentence per broken promise of a run: numbers that differ from one rank, bytes that differ from the closed form.
inline void judge(outcome const& run, double bound, double bound_of_gradients, std::vector<std::string>& out) {
  auto judge_one = [&](char const* what, double found, double allowed) {
    if (!(found <= allowed)) // also catches NaN
      out.push_back(fmt::format("{} in {}: {} differ from one rank by {:.2e}, allowed {:.0e}", run.strategy, run.type, what,
                                found, allowed));
  };
  judge_one("losses", run.loss_difference, bound);
  judge_one("gradient norms", run.norm_difference, bound);
  judge_one("first gradients", run.gradient_difference, bound_of_gradients);
  if (run.bytes_counted != run.bytes_expected)
    out.push_back(fmt::format("{} in {}: sent {:.0f} bytes, the closed form says {:.0f}", run.strategy, run.type,
                              run.bytes_counted, run.bytes_expected));
}
/// The same for a loss that does not fall.
inline void judge_fall(outcome const& run, std::vector<std::string>& out) {
  double wanted = run.losses.front() * required_fall(run.losses.size());
  if (run.type != "double" && !(final_loss(run) < wanted))
    out.push_back(fmt::format("{} in {}: the loss went from {:.4f} to {:.4f}, below {:.4f} was expected", run.strategy, run.type,
                              run.losses.front(), final_loss(run), wanted));
}

/// Of gradients of one rank in double against differences of the loss.
inline constexpr double bound_of_slopes = 1e-9;
/// The same with gated delta nets: the state of a document's first tokens may give a query nearly nothing, which a norm then makes large, and
/// what rounding did to it as well.
inline double bound_of_slopes_of(shape const& m) { return m.delta_layers() > 0 ? 1e-7 : bound_of_slopes; }

/// The same for gradients that are off by more.
inline void judge_slopes(double error, double allowed, std::vector<std::string>& out) {
  if (!(error <= allowed))
    out.push_back(fmt::format("one rank in double: gradients differ from differences of the loss by {:.2e}, allowed {:.0e}",
                              error, allowed));
}

} // namespace trainer
