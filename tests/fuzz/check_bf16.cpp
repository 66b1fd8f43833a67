// Differential cases in bf16, cpu kernel: one instantiation for all programs that run recipes.
// See differential.hpp.
#include "differential.hpp"

std::string fuzz::check_bf16(recipe const& r) {
  conformance::inputs<sp::bf16> const in(trial_of(r, rotate));
  auto run = [](auto& t, auto& i, auto& k, auto& to) { run_strategy<sp::bf16>(t, i, k, to); };
  return differences<sp::bf16>(r, sp::cpu<>{}, in, run);
}
