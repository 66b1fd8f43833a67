// Pictures of a plan: who owns which tokens of a step, and which (query, key) pairs each ring step computes.
// Drawn from the layouts the ranks themselves use; positions are those of the whole step, also where data ranks hold parts of it.
#pragma once

#include <string>

#include "training/plans.hpp"

namespace trainer {

/// The stream as a band, one colour per rank, document boundaries marked.
std::string draw_owners(plan const& p, step_text const& step);

/// One token x token map per ring step. Documents are the step's, scaled down to a few dozen tokens so that each pair is a cell.
std::string draw_ring_steps(plan const& p, step_text const& step);

/// Colour and name of every rank of a plan.
std::string draw_rank_colours(plan const& p);

} // namespace trainer
