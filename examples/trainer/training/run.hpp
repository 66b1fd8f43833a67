// The trainer's two number types, compiled apart: the templates of train.hpp are heavy.
// Each call trains one plan from the seed and returns what happened, where the ranks lead; errors of the library leave as sp::error.
#pragma once

#include "ranks.hpp"
#include "training/outcome.hpp"
#include "training/plans.hpp"
#include "training/progress.hpp"

namespace trainer {

outcome run_float(ranks& us, plan const& how, settings const& asked, corpus const& text, int steps, progress& show);
outcome run_double(ranks& us, plan const& how, settings const& asked, corpus const& text, int steps, progress& show);

/// The gradients of one rank in double against differences of the loss, see slopes.hpp.
double gradient_error(ranks& us, settings const& asked, corpus const& text);

} // namespace trainer
