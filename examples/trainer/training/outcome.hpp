// What one run of one strategy in one number type left behind: curves, times, bytes, memory.
// Plain data: training fills it in, comparison adds the differences from one rank, the report shows it.
#pragma once

#include "config.hpp"

namespace trainer {

/// Everything one strategy did in one number type.
struct outcome {
  std::string strategy; ///< "zigzag ring 4"
  std::string type;     ///< "float", "double", or "bf16": a model in float with attention in bf16
  int ranks = 1;
  std::vector<double> losses;    ///< mean over the step's valid tokens, before the update
  std::vector<double> norms;     ///< of the whole gradient, before clipping
  std::vector<double> gradients; ///< the first step's, all parameters
  double seconds = 0;
  double tokens = 0;         ///< over all steps
  double bytes_counted = 0;  ///< sent by attention, all ranks, all steps
  double bytes_expected = 0; ///< the closed form for the same steps
  index_t workspace = 0;     ///< peak attention memory (scratch and saved) of the rank that needs most

  double imbalance = 1; ///< of attention in the first step: work of the busiest rank over the mean of all

  // against the one-rank run of the same type
  double loss_difference = 0, norm_difference = 0, gradient_difference = 0;

  double tokens_per_second() const { return seconds > 0 ? tokens / seconds : 0; }
  double sent_per_token() const { return bytes_counted / tokens; }
  double expected_per_token() const { return bytes_expected / tokens; }
};

} // namespace trainer
