// The trainer in double.
// See train.hpp for what a run is.
#include "training/train.hpp"

#include "training/run.hpp"

namespace trainer {

outcome run_double(ranks& us, plan const& how, settings const& asked, corpus const& text, int steps, progress& show) {
  return run_plan<double>(us, how, asked, text, steps, show);
}

} // namespace trainer
