// The trainer's two number types, compiled apart: the templates of train.hpp are heavy.
// Each call trains one plan from the seed and returns what happened, where the ranks lead; errors of the library leave as sp::error.
#pragma once

#include "plans.hpp"
#include "progress.hpp"
#include "ranks.hpp"

namespace trainer {

outcome run_float(ranks& us, plan const& how, settings const& asked, corpus const& text, int steps, progress& show);
outcome run_double(ranks& us, plan const& how, settings const& asked, corpus const& text, int steps, progress& show);

} // namespace trainer
