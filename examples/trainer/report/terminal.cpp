// The table on the terminal, and words that it shares with the page.
// Numbers that must agree are printed with the bound they are held to.
#include <fmt/core.h>

#include "report/report.hpp"
#include "training/compare.hpp"

namespace trainer {

std::string over_compared_steps(settings const& asked) {
  return asked.compared_steps < asked.steps ? fmt::format("over the first {} steps", asked.compared_steps) : "over all steps";
}

std::string in_compared_steps(settings const& asked) {
  return asked.compared_steps < asked.steps ? fmt::format(" in the first {} steps", asked.compared_steps) : "";
}

std::string layers_of(shape const& m) {
  std::string const softmax = fmt::format("{} query heads on {} kv heads of {}", m.q_heads, m.kv_heads, m.head_dim);
  if (m.delta_layers() == 0) return fmt::format("{} layers, width {}, {}", m.layers, m.dim, softmax);
  delta_shape const& d = m.delta;
  return fmt::format(
      "{} layers: {} gated delta nets ({} value heads of {} on {} key heads of {}), {} of softmax attention ({}), width {}",
      m.layers, m.delta_layers(), d.v_heads, d.value_dim, d.k_heads, d.key_dim, m.layers - m.delta_layers(), softmax, m.dim);
}

std::vector<std::string> complaints(report const& r) {
  std::vector<std::string> out;
  if (r.slopes) judge_slopes(*r.slopes, bound_of_slopes_of(r.asked.model), out);
  for (outcome const& run : r.outcomes) {
    judge(run, bound_of(run.type), bound_of(run.type), out);
    judge_fall(run, out);
  }
  return out;
}

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
  fmt::print("\nFinal loss: mean of the last three steps. Differences are relative, {}; gradients: the first step's, "
             "worst matrix by norm. Allowed: {} "
             "{:.0e}, double {:.0e}. Double trains {} of {}'s {} steps: enough to show a mistake, not to learn.\n",
             over_compared_steps(r.asked), r.asked.type_of<float>(), bound_of(r.asked.type_of<float>()), bound_of("double"),
             r.asked.double_steps, r.asked.type_of<float>(), r.asked.steps);
  fmt::print("Bytes: all ranks, {} layers, forward and backward. Peak: scratch and saved tensors of attention. Ranks are {}, "
             "{} on {} cores together.\n",
             r.asked.model.layers, r.ranks_are,
             r.asked.on_device
                 ? std::string("which computes attention, loss, sums of ranks and matrix products; the rest of the model is")
             : r.asked.workers == 1 ? std::string("one thread each for attention,")
                                    : fmt::format("{} threads each for attention,", r.asked.workers),
             r.cores);
  if (r.slopes)
    fmt::print("Gradients of one rank in double against differences of the loss: {:.1e}, allowed {:.0e}.\n", *r.slopes,
               bound_of_slopes_of(r.asked.model));
  if (r.asked.model.delta_layers() == 0) return;
  std::string by[2];
  for (plan const& p : r.plans)
    if (p.ranks() > 1) by[p.delta == delta_by::heads] += (by[p.delta == delta_by::heads].empty() ? "" : ", ") + p.name;
  fmt::print("Attention is both kinds of layers. Gated delta nets exchange tokens for heads under {}; maps of the state travel "
             "under {}.\n",
             by[1], by[0]);
}

} // namespace trainer
