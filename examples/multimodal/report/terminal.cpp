// The table on the terminal.
// Numbers that must agree are printed with the bound they are held to.
#include <fmt/core.h>

#include "multimodal/report/report.hpp"
#include "multimodal/training/compare.hpp"

namespace multimodal {

std::vector<std::string> complaints(report const& r) { return complaints(r.outcomes, r.asked, r.drawn(), r.slopes); }

void print_table(report const& r) {
  fmt::print("\n{:<20} {:<6} {:>5} {:>10} {:>7} | {:^29} | {:^19} | {:^34} {:>11}\n", "", "", "", "", "right",
             "difference from one rank", "per second", "bytes sent per row of the decoder", "");
  fmt::print("{:<20} {:<6} {:>5} {:>10} {:>7} | {:>9} {:>9} {:>9} | {:>9} {:>9} | {:>12} {:>12} {:>8} {:>11}\n", "strategy",
             "type", "steps", "final loss", "answers", "loss", "norm", "gradient", "rows", "patches", "counted", "closed form",
             "ratio", "peak/rank");
  for (outcome const& o : r.outcomes) {
    if (o.ranks == 1) fmt::print("{:-<148}\n", "");
    std::string const ratio = o.bytes_expected > 0 ? fmt::format("{:.4f}", o.bytes_counted / o.bytes_expected) : "-";
    std::string const right = o.answers.empty() ? "-" : fmt::format("{:.3f}", o.accuracy());
    fmt::print("{:<20} {:<6} {:>5} {:>10.6f} {:>7} | {:>9.1e} {:>9.1e} {:>9.1e} | {:>9.0f} {:>9.0f} | {:>12.1f} {:>12.1f} {:>8} "
               "{:>7.2f} MiB\n",
               o.strategy, o.type, o.losses.size(), trainer::final_loss(o), right, o.loss_difference, o.norm_difference,
               o.gradient_difference, o.tokens_per_second(), o.patches_per_second(), o.sent_per_token(), o.expected_per_token(),
               ratio, double(o.workspace) / (1 << 20));
  }
  fmt::print(
      "\nRight answers: of {} questions on held-back pictures, all characters, each behind the right ones. Final loss: mean of "
      "the last three steps.\nDifferences are relative, over the first {} steps; gradients: the first step's of every "
      "parameter of tower, projection and decoder, worst matrix by norm.\nAllowed: float {:.0e}, double {:.0e}, gradients in "
      "double {:.0e}. Gradients of one rank in double against differences of the loss: {:.1e}.\n",
      r.asked.questions, r.asked.compared_steps, trainer::bound_of("float"), trainer::bound_of("double"),
      bound_of_gradients("double"), r.slopes);
  fmt::print(
      "Bytes: attention of tower and decoder, splice and deepstack, all ranks, forward and backward. Peak: scratch and saved "
      "tensors of these.\nWhere a strategy has two names the first is the tower's, the second the decoder's. Ranks are {}, one "
      "thread each, on {} cores together.\n",
      r.ranks_are, r.cores);
}

} // namespace multimodal
