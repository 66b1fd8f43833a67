// The trainer's two number types, compiled apart: the templates of train.hpp are heavy.
// Each call trains by one plan from the seed and returns what happened, where the ranks lead; errors of the library leave as sp::error.
#pragma once

#include "multimodal/training/outcome.hpp"
#include "multimodal/training/plans.hpp"
#include "ranks.hpp"
#include "trainer/training/progress.hpp"

namespace multimodal {

/// settings::steps, then questions on held-back pictures; or, where the plan does not learn, the first settings::short_steps.
outcome run_float(trainer::ranks& us, plan const& how, settings const& asked, digit_sets const& digits, trainer::progress& show);
/// The first settings::double_steps of them.
outcome run_double(trainer::ranks& us, plan const& how, settings const& asked, digit_sets const& digits, trainer::progress& show);

/// The gradients of one rank in double against differences of the loss: the largest relative error over all parameters.
double gradient_error(trainer::ranks& us, settings const& asked, digit_sets const& digits);
/// What sp::inspect finds in the model, a line each.
std::string found_in_model(settings const& asked);

} // namespace multimodal
