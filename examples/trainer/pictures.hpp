// The report's pictures: curves, who owns which tokens, and which blocks each ring step computes.
// Owners and blocks come from the library's layouts and its one intersection, so the pictures cannot disagree with the program.
#pragma once

#include <functional>

#include "plans.hpp"

namespace trainer {

/// One line of a chart.
struct curve {
  std::string name;
  std::vector<double> values; ///< one per step
  int colour = 0;
};

/// Curves over steps on one pair of axes; `logarithmic` draws powers of ten and leaves out zeros.
std::string draw_curves(std::vector<curve> const& curves, std::string const& label, bool logarithmic);

/// The stream as a band, one colour per rank, document boundaries marked.
std::string draw_owners(plan const& p, step_text const& step);

/// One token x token map per ring step. Documents are the step's, scaled down to a few dozen tokens so that each pair is a cell.
std::string draw_ring_steps(plan const& p, step_text const& step);

/// Pairs that the busiest rank computes over the mean of all ranks: 1 is perfect balance.
double imbalance(plan const& p, step_text const& step);

/// Colour and name of every rank of a plan.
std::string draw_legend(plan const& p);

} // namespace trainer
