// Runs the path over ranks that are threads, with results and bytes verified before anything is timed.
// Times are those of the slowest rank, stage by stage, behind a barrier; the median of a fixed number of steps.
#pragma once

#include <string>

#include "multimodal/bytes.hpp"

namespace multimodal {

struct plan {
  int ranks = 1;
  strategy how = strategy::ulysses;
  char const* name = "one rank";
};
inline constexpr plan plans[] = {{1, strategy::ulysses, "one rank"},
                                 {2, strategy::ulysses, "ulysses 2"},
                                 {4, strategy::ulysses, "ulysses 4"},
                                 {2, strategy::ring, "ring 2"},
                                 {4, strategy::ring, "ring 4"}};

struct measured {
  index_t tokens = 0;
  plan of;
  int steps = 0;
  std::array<double, std::size_t(stages)> seconds{};
  stage_bytes bytes{}, predicted{};
  index_t tensor_bytes = 0, call_bytes = 0; ///< of the rank that needs most
  double difference = 0;                    ///< from one rank
  double step_seconds() const {
    double s = 0;
    for (double x : seconds) s += x;
    return s;
  }
};

/// What results may differ by: float sums in another order.
inline constexpr double allowed = 2e-4;

/// One rank through sp::reference in double: what everything else is compared with, at sizes where that takes moments.
results oracle(workload const& w);

/// Runs, and writes what all ranks found.
measured measure(workload const& w, plan const& p, int steps, results& found);

/// A sentence if results or bytes are not what they must be; empty otherwise.
std::string wrong(measured const& m);

} // namespace multimodal
