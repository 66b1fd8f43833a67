// Writes the two tables; both have their headings, their rows and their scrolling box from one function.
// Numbers are printed as in train.json, rounded.
#include "report/page/tables.hpp"

#include "report/page/svg.hpp"
#include "training/compare.hpp"

namespace trainer {
namespace {

using cells = std::vector<std::string>;

std::string row_of(cells const& values, char const* first) {
  std::string row = fmt::format("<th scope=\"{}\">{}</th>", first, values[0]);
  std::string other = std::string(first) == "col" ? "th" : "td";
  for (std::size_t i = 1; i < values.size(); ++i) row += fmt::format("<{0}>{1}</{0}>", other, values[i]);
  return row + "</tr>\n";
}

/// "float, 32 steps."
std::string type_and_steps(outcome const& first) {
  return fmt::format("<b>{}, {}.</b> ", first.type, counted(first.losses.size(), "step"));
}

/// Why a number type trained as long as it did.
std::string reason_of_steps(outcome const& first) {
  if (first.type == "bf16") return "The training itself: the model in float, attention in bf16.";
  if (first.type == "float") return "The training itself.";
  return "Few on purpose: double rounds at 1e-16, so that a mistake would stand out from the first step on and the bound can be "
         "1e-9. More steps would show nothing new. The loss is high because it has only just begun to fall.";
}

/// What a number type changes in the costs.
std::string reason_of_costs(outcome const& first) {
  if (first.type == "bf16") return "2 bytes a number; gradients of keys and values travel through a ring with 4.";
  if (first.type == "float") return "4 bytes a number.";
  return "8 bytes a number: twice the bytes sent. Time of so few steps says little.";
}

std::string table(report const& r, char const* id, char const* name, cells const& head, auto&& reason_of, auto&& values_of) {
  std::string t = fmt::format(
      "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{}\"><table id=\"{}\">\n<tr class=\"head\">", name, id);
  t += row_of(head, "col");
  for (outcome const& o : r.outcomes) {
    if (o.ranks == 1)
      t += fmt::format("<tr class=\"type\"><th colspan=\"{}\" scope=\"rowgroup\"><span>{}</span></th></tr>\n", head.size(),
                       type_and_steps(o) + reason_of(o));
    cells values = values_of(o);
    values.insert(values.begin(), escaped(o.strategy));
    t += (o.ranks == 1 ? "<tr class=\"one\">" : "<tr>") + row_of(values, "row");
  }
  return t + "</table></div>\n";
}

} // namespace

std::string table_of_differences(report const& r) {
  cells head{"strategy", "steps", "final loss", "loss<br>difference", "norm<br>difference", "first gradients<br>difference",
             "allowed"};
  return table(r, "differences", "Differences from one rank", head, reason_of_steps, [](outcome const& o) {
    auto difference = [&](double d) { return o.ranks == 1 ? std::string("–") : scientific(d); };
    return cells{std::to_string(o.losses.size()), fmt::format("{:.6f}", final_loss(o)), difference(o.loss_difference),
                 difference(o.norm_difference),   difference(o.gradient_difference),    power_of_ten(bound_of(o.type))};
  });
}

std::string table_of_costs(report const& r) {
  cells head{"strategy",
             "threads<br>on cores",
             "tokens/s",
             "bytes sent<br>per token",
             "closed<br>form",
             "sent over<br>closed form",
             "attention<br>peak, MiB",
             "imbalance"};
  return table(r, "costs", "Speed, bytes, memory, balance", head, reason_of_costs, [&](outcome const& o) {
    std::string ratio = o.bytes_expected > 0 ? fmt::format("{:.4f}", o.bytes_counted / o.bytes_expected) : "–";
    return cells{fmt::format("{} on {}", o.ranks, r.cores),
                 fmt::format("{:.0f}", o.tokens_per_second()),
                 fmt::format("{:.1f}", o.sent_per_token()),
                 fmt::format("{:.1f}", o.expected_per_token()),
                 ratio,
                 fmt::format("{:.2f}", double(o.workspace) / (1 << 20)),
                 fmt::format("{:.2f}", o.imbalance)};
  });
}

} // namespace trainer
