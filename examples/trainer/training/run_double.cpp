// The trainer in double.
// See train.hpp for what a run is.
#include "training/train.hpp"

#include "training/run.hpp"

namespace trainer {

outcome run_double(ranks& us, plan const& how, settings const& asked, corpus const& text, int steps, progress& show) {
  return run_plan<double>(us, how, asked, text, steps, show);
}

double gradient_error(ranks& us, settings const& asked, corpus const& text) {
  plan const one{"one rank"};
  place const here(asked, 1);
  auto const errors = us.run(1, [&](ranks::communicator const& world) {
    auto const group = here.group_of<double>(world, one, asked);
    return rank_trainer<double>(one, asked, text, world.rank(), *group, here.products(world)).gradient_error();
  });
  return us.lead() ? errors.front() : 0;
}

} // namespace trainer
