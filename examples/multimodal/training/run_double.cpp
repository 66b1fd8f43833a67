// The trainer in double.
// See train.hpp for what a run is.
#include "multimodal/training/train.hpp"

namespace multimodal {

outcome run_double(trainer::ranks& us, plan const& how, settings const& asked, digit_sets const& digits,
                   trainer::progress& show) {
  return run_plan<double>(us, how, asked, digits, asked.double_steps, false, show);
}

double gradient_error(trainer::ranks& us, settings const& asked, digit_sets const& digits) {
  auto const errors = us.run(1, [&](trainer::ranks::communicator const& world) {
    return rank_trainer<double, trainer::ranks::communicator>(world, plan{"one rank"}, asked, digits).gradient_error();
  });
  return us.lead() ? errors.front() : 0;
}
std::string found_in_model(settings const& asked) {
  model<double> m(asked.model, asked.seed);
  return sp::inspect(m).text();
}

} // namespace multimodal
