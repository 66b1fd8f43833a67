// sp_multimodal_trainer: trains a small vision-language model on pictures of digits, by one rank and by several, and shows that the numbers
// are the same and that it learns. Exit codes: 0 all is well, 1 a number is off (it says which), 2 the options, the pictures or the output
// folder cannot be used.
#include <algorithm>

#include "multimodal/options.hpp"
#include "multimodal/report/report.hpp"
#include "multimodal/training/compare.hpp"
#include "multimodal/training/run.hpp"
#include "trainer/report/output.hpp"

namespace {

using namespace multimodal;

void describe(report const& r) {
  model_shape const& m = r.asked.model;
  tower_shape const& t = m.tower;
  fmt::print("pictures {}, {} of digits to learn from and {} held back\n", r.digits->source, r.digits->train.size(),
             r.digits->held_back.size());
  fmt::print(
      "model    {} parameters: a tower of {} layers, width {}, {} heads, {} class tokens, {} positions; merges of {} x {}; a "
      "decoder of {} layers, width {}, {} query heads on {} kv heads, deepstack behind {} of them\n",
      r.parameters, t.layers, t.dim, t.heads, t.prefix, t.rotary ? "rotary" : "learned", m.merge, m.merge, m.layers, m.dim,
      m.q_heads, m.kv_heads, m.deepstack);
  fmt::print("splice   {}; a step has {} texts\nsteps    {} in float, {} in double\nfound in the model by sp::inspect:\n{}\n",
             name_of(r.asked.splice), r.asked.samples, r.asked.steps, r.asked.double_steps, r.found);
}

void run_all(report& r, trainer::ranks& us, trainer::progress& show) {
  for (bool in_double : {true, false}) {
    std::size_t const first = r.outcomes.size();
    for (plan const& p : r.plans) {
      r.outcomes.push_back((in_double ? run_double : run_float)(us, p, r.asked, *r.digits, show));
      trainer::compare(r.outcomes.back(), r.outcomes[first], parameter_table(r.asked.model), r.asked.compared_steps);
    }
  }
}

int conclude(report const& r) {
  auto const wrong = complaints(r);
  for (std::string const& w : wrong) fmt::print(stderr, "sp_multimodal_trainer: {}\n", w);
  if (!wrong.empty()) return 1;
  outcome const& one = r.in_float().front();
  fmt::print(
      "All strategies agree with one rank; the loss went from {:.3f} to {:.3f} (mean of the last three steps), {:.0f} % of "
      "the answers of one rank are right{}. {:.0f} s in all.\n",
      one.losses.front(), trainer::final_loss(one), 100 * one.accuracy(),
      required_accuracy(r.asked, r.drawn()) > 0
          ? fmt::format(", {:.0f} % were required", 100 * required_accuracy(r.asked, r.drawn()))
          : std::string(", nothing was required"),
      r.seconds);
  return 0;
}

/// About, for the time left.
double rows_of_a_step(report const& r) {
  std::size_t rows = 0;
  for (sample const& s : r.first_step) rows += tokens_of(s, splice_kind::internvl, r.asked.model).size();
  return double(rows);
}

double steps_in_all(report const& r) {
  double steps = 0;
  for (plan const& p : r.plans)
    steps += double(r.asked.double_steps + (p.learns ? r.asked.steps : std::min(r.asked.steps, r.asked.short_steps)));
  return steps;
}

int train(settings const& asked, digit_sets const& digits, trainer::ranks& us) {
  report r{.asked = asked, .digits = &digits, .parameters = parameter_table(asked.model).size(), .plans = all_plans(us.most())};
  r.first_step = questioner(digits.train, asked.seed).next(asked.samples);
  r.ranks_are = trainer::ranks::are();
  r.cores = us.cores();
  r.found = found_in_model(asked);
  describe(r);
  trainer::progress show(steps_in_all(r) * rows_of_a_step(r));
  r.slopes = gradient_error(us, asked, digits);
  run_all(r, us, show);
  r.seconds = show.seconds_in_all();
  print_table(r);
  write_json(r, asked.out / "train.json");
  write_html(r, asked.out / "report.html");
  fmt::print("Wrote {} and {}.\n", (asked.out / "train.json").string(), (asked.out / "report.html").string());
  return conclude(r);
}

int guarded(settings const& asked, trainer::ranks& us) {
  try {
    digit_sets const digits = asked.images.empty() ? drawn_digits(asked.seed) : read_digits(asked.images);
    trainer::claim_output(asked.out);
    return train(asked, digits, us);
  } catch (bad_pictures const& e) {
    fmt::print(stderr, "sp_multimodal_trainer: {}\n", e.what());
    return 2;
  } catch (trainer::unusable const& e) {
    fmt::print(stderr, "sp_multimodal_trainer: {}\n", e.what());
    return 2;
  } catch (std::exception const& e) {
    fmt::print(stderr, "sp_multimodal_trainer: {}\n", e.what());
    return 1;
  }
}

} // namespace

int main(int argc, char** argv) {
  trainer::ranks us(argc, argv);
  settings asked;
  if (auto code = read_options(argc, argv, asked)) return *code;
  return guarded(asked, us);
}
