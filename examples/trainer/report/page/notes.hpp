// The prose of the page: what its numbers count, what they leave out, how to read its pictures.
// Whatever depends on the run (cores, ranks, the largest imbalance) is filled in from the report.
#pragma once

#include <string>

#include "report/report.hpp"

namespace trainer {

/// How to read the charts of differences.
std::string note_on_differences();

/// What the columns of the table of costs mean.
std::string notes_on_costs(report const& r);

/// How far gradients of one rank are from differences of the loss; nothing where that was not asked.
std::string note_on_slopes(report const& r);

/// What the ranks of a plan do, and how the pictures show it.
std::string note_on_plan(report const& r, plan const& p);

} // namespace trainer
