// Differential cases in fp16, reference kernel: one instantiation for all programs that run recipes.
// See differential.hpp.
#include "differential.hpp"

std::string fuzz::check_fp16(recipe const& r) {
  conformance::inputs<sp::fp16> const in(trial_of(r, rotate));
  auto run = [](auto& t, auto& i, auto& k, auto& to) { run_strategy<sp::fp16>(t, i, k, to); };
  return differences<sp::fp16>(r, sp::reference<>{}, in, run);
}
