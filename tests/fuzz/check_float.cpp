// Differential cases in float, cpu kernel: one instantiation for all programs that run recipes.
// See differential.hpp.
#include "differential.hpp"

std::string fuzz::check_float(recipe const& r) {
  conformance::inputs<float> const in(trial_of(r, rotate));
  auto run = [](auto& t, auto& i, auto& k, auto& to) { run_strategy<float>(t, i, k, to); };
  return differences<float>(r, sp::cpu<>{}, in, run);
}
