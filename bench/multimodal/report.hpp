// What the multimodal bench says: a table for terminals, JSON for programs, one picture.
// Each says what these numbers cannot show on the machine that made them.
#pragma once

#include "multimodal/measure.hpp"

namespace multimodal {

/// Where the numbers were made.
struct machine {
  int processors = 1;
  double load = 0; ///< programs that wanted to run in the minute before
};

std::string table(std::vector<measured> const& all, machine const& on);
std::string json(std::vector<measured> const& all, machine const& on);
std::string picture(std::vector<measured> const& all, machine const& on);

/// What is not shown, a sentence each.
std::vector<std::string> limits(machine const& on);

/// The plan of one rank at the same size.
measured const& alone(std::vector<measured> const& all, measured const& m);
/// Patches and tokens in a second.
inline double throughput(measured const& m) { return 2 * double(m.tokens) / m.step_seconds(); }

} // namespace multimodal
