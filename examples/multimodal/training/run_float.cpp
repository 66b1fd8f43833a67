// The trainer in float.
// See train.hpp for what a run is.
#include <algorithm>

#include "multimodal/training/train.hpp"

namespace multimodal {

outcome run_float(trainer::ranks& us, plan const& how, settings const& asked, digit_sets const& digits, trainer::progress& show) {
  return run_plan<float>(us, how, asked, digits, how.learns ? asked.steps : std::min(asked.steps, asked.short_steps), how.learns,
                         show);
}

} // namespace multimodal
