// Differential cases in double, cpu kernel with every feature: one instantiation for all programs that run recipes.
// See differential.hpp.
#include "differential.hpp"

std::string fuzz::check_double(recipe const& line) {
  recipe r = line;
  if (r.softcap <= 0) r.softcap = 1e9; // none: the same kernel serves all
  conformance::inputs<double> const in(trial_of(r, rotate));
  auto run = [](auto& t, auto& i, auto& k, auto& to) { run_strategy<double>(t, i, k, to); };
  return differences<double>(r, sp::cpu{sp::softcap{r.softcap}, sp::alibi{in.slopes}, sp::dropout{r.dropout}}, in, run);
}
