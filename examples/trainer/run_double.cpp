// The trainer in double.
// See train.hpp for what a run is.
#include "train.hpp"

#include "run.hpp"

namespace trainer {

outcome run_double(plan const& how, settings const& asked, corpus const& text, int steps, progress& show) {
  return run_plan<double>(how, asked, text, steps, show);
}

} // namespace trainer
