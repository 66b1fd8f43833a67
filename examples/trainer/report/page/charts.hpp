// Charts of one value per step: the loss of one run, and how far the other runs are from it.
// Equal to the last bit is not a small number: it has a row of its own below the logarithmic axis.
#pragma once

#include <string>
#include <vector>

namespace trainer {

/// One strategy in a chart.
struct series {
  std::string name;
  std::vector<double> values; ///< one per step
  int colour = 0;
};

/// One curve on linear axes.
std::string draw_loss(series const& loss, std::string const& label);

/// Relative differences on a logarithmic axis, with the bound as a line; below the chart a legend with the largest of each.
std::string draw_differences(std::vector<series> const& runs, double allowed, std::string const& type);

} // namespace trainer
