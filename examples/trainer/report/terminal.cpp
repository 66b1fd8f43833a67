// The table on the terminal.
// Numbers that must agree are printed with the bound they are held to.
#include <fmt/core.h>

#include "report/report.hpp"
#include "training/compare.hpp"

namespace trainer {

void print_table(report const& r) {
  fmt::print("\n{:<20} {:<6} {:>10} | {:^29} | {:>9} {:^30} {:>11}\n", "", "", "", "difference from one rank", "",
             "bytes attention sends per token", "attention");
  fmt::print("{:<20} {:<6} {:>10} | {:>9} {:>9} {:>9} | {:>9} {:>11} {:>11} {:>7} {:>11}\n", "strategy", "type", "final loss",
             "loss", "norm", "gradient", "tokens/s", "counted", "closed form", "ratio", "peak/rank");
  for (outcome const& o : r.outcomes) {
    if (o.ranks == 1) fmt::print("{:-<125}\n", "");
    std::string ratio = o.bytes_expected > 0 ? fmt::format("{:.4f}", o.bytes_counted / o.bytes_expected) : "-";
    fmt::print("{:<20} {:<6} {:>10.6f} | {:>9.1e} {:>9.1e} {:>9.1e} | {:>9.0f} {:>11.1f} {:>11.1f} {:>7} {:>7.2f} MiB\n",
               o.strategy, o.type, final_loss(o), o.loss_difference, o.norm_difference, o.gradient_difference,
               o.tokens_per_second(), o.sent_per_token(), o.expected_per_token(), ratio, double(o.workspace) / (1 << 20));
  }
  fmt::print("\nFinal loss: mean of the last three steps. Differences are relative, over all steps; gradients: the first step's, "
             "worst matrix by norm. Allowed: {} "
             "{:.0e}, double {:.0e}. Double trains {} of {}'s {} steps: enough to show a mistake, not to learn.\n",
             r.asked.type_of<float>(), bound_of(r.asked.type_of<float>()), bound_of("double"), r.asked.double_steps,
             r.asked.type_of<float>(), r.asked.steps);
  fmt::print("Bytes: all ranks, {} layers, forward and backward. Peak: scratch and saved tensors of attention. Ranks are {}, "
             "{} on {} cores together.\n",
             r.asked.model.layers, r.ranks_are,
             r.asked.on_device
                 ? std::string("which computes attention, loss, sums of ranks and matrix products; the rest of the model is")
             : r.asked.workers == 1 ? std::string("one thread each for attention,")
                                    : fmt::format("{} threads each for attention,", r.asked.workers),
             r.cores);
}

} // namespace trainer
