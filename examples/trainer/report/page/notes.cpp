// What a reader has to know beside the numbers, in HTML.
// Every note says what a figure does not show as well as what it shows.
#include "report/page/notes.hpp"

#include <algorithm>

#include "report/page/svg.hpp"
#include "training/compare.hpp"

namespace trainer {
namespace {

constexpr char const* on_differences = R"(<p class="note">A dot is one step of one strategy: the larger of two relative
differences from one rank, of the loss and of the gradient's norm. All dots must lie below the dashed line. The axis is
logarithmic and has no place for zero: where both numbers are the same to the last bit, the dot stands in the row
“exactly 0” under the axis. One rank itself, by which the others are measured, always stands there.</p>
<p class="note">Strategies add the same terms in another order, so they round differently, and training amplifies that from step
to step. In double the same happens nine digits further down.</p>
)";

constexpr char const* on_speed = R"(<dt>tokens/s</dt>
<dd>Tokens of all ranks over wall-clock time of the whole training step: attention, the rest of the model, exchange, optimizer.
A rank computes on one thread{2}; this machine gives the program {0}. {1}, and one rank alone uses {3}. What every rank
repeats, such as the optimizer's step over all weights, each of them pays. Strategies run one after another, so what else the machine did meanwhile is in it. The figure shows what a strategy costs on this
machine. It does not show how strategies compare where each rank has a device of its own, nor how they scale, nor the speed of
attention alone.</dd>
)";

constexpr char const* on_speed_of_device = R"(<dt>tokens/s</dt>
<dd>Tokens of all ranks over wall-clock time of the whole training step. The ranks are {0}. The device computes attention, the loss, the
sums over ranks and the matrix products; all else is computed on the host ({1}), where the model's tensors lie, so each call copies
what it needs to the device and its result back. The figure is that of a demonstration: it does not show the speed of attention, nor how
strategies compare or scale where each rank has a device of its own.</dd>
)";

constexpr char const* on_bytes = R"(<dt>bytes sent per token</dt>
<dd>What attention sends, all ranks and layers, forward and backward, counted message by message. The closed form is computed
from token counts, head ranges and who owns which tokens alone; the two must be equal.</dd>
)";

constexpr char const* on_memory = R"(<dt>attention peak</dt>
<dd>{} memory that attention itself asks for, on the rank that needs most: the most scratch it held at any time (given back
within a call: receive buffers, partial results, gradients on their way) plus the most it kept from forward to backward, of all
layers (exchanged heads, log-sum-exp, states and their maps). The two peaks need not coincide, so the sum is an upper bound. Not included: the tensors
that the model owns (q, k, v, the output and their gradients), other activations, weights, gradients and optimizer state, the
transport's own buffers, and the tables of who owns what.</dd>
)";

constexpr char const* on_imbalance = R"(<dt>imbalance</dt>
<dd>What the busiest rank computes in attention over the mean of all ranks, counted in (query, key) pairs times query heads of
the first step. Everybody waits for the busiest rank: 1.00 means that nobody waits, 1.50 that attention takes half as long again
as it could. Contiguous pieces of one long document over P ranks have (2P − 1)/P: the last rank sees the whole document, so it
computes 2P − 1 of P² equal parts, where the mean is P. That is 1.50 on 2 ranks, 1.75 on 4, and approaches 2. Packed documents
change that number, because nobody looks across a document's edge, and because data ranks share out whole documents, which are
not equally long. Zigzag gives each rank an early and a late piece of each document, stripes deal tokens out in turn; both stay
near 1. Largest here: {0:.2f}, {1}.{2}</dd>
)";

std::string note_on_speed(report const& r) {
  std::string cores = counted(std::size_t(r.cores), "core");
  if (r.asked.on_device) return fmt::format(on_speed_of_device, escaped(r.ranks_are), cores);
  int most = 0;
  for (plan const& p : r.plans) most = std::max(most, p.ranks());
  std::string sharing = r.cores < most ? fmt::format("Here {} ranks share {}, so they wait for their turn", most, cores)
                                       : "Here every rank can have a core to itself";
  std::string workers = r.asked.workers == 1 ? "" : fmt::format(", attention on up to {}", r.asked.workers);
  return fmt::format(on_speed, cores, sharing, workers, r.asked.workers == 1 ? "one core" : "the cores of its threads");
}

/// What the ranks of a plan do for softmax attention.
std::string note_on_attention(plan const& p) {
  if (p.ring == 1)
    return "All ranks exchange heads for tokens; each then sees the whole stream for its own heads. The map is the same for all "
           "ranks, one colour stands for them.";
  std::string how;
  if (p.ulysses > 1)
    how = "Pairs of ranks exchange heads for tokens and walk the ring together, coloured as the first of the pair. ";
  if (p.data > 1) how += fmt::format("Two groups of {} ranks train on different documents of the step. ", p.sequence());
  if (p.schedule == sp::schedule::cast) return how + "Each rank is sent the keys that its tokens see, then computes in one go.";
  return how + "Keys travel around the ring; in step s rank r meets the keys of rank r − s. Coloured: what is computed; grey: "
               "computed in other steps.";
}

std::string note_on_imbalance(report const& r) {
  auto less_unequal = [](outcome const& a, outcome const& b) { return a.imbalance < b.imbalance; };
  outcome const& worst = *std::max_element(r.outcomes.begin(), r.outcomes.end(), less_unequal);
  char const* nets = r.asked.model.delta_layers() > 0 ? " Gated delta nets are left out: by state, ranks in the middle of a "
                                                        "document make maps of their tokens as well, and by "
                                                        "heads ranks may have unequal numbers of heads."
                                                      : "";
  return fmt::format(on_imbalance, worst.imbalance, escaped(worst.strategy), nets);
}

} // namespace

std::string note_on_differences() { return on_differences; }

std::string notes_on_costs(report const& r) {
  std::string const memory = fmt::format(on_memory, r.asked.on_device ? "Device" : "Host");
  return "<dl>\n" + note_on_speed(r) + on_bytes + memory + note_on_imbalance(r) + "</dl>\n";
}

std::string note_on_slopes(report const& r) {
  if (!r.slopes) return "";
  return fmt::format(
      "<p class=\"note\">That the gradients of one rank are right is asked apart: in double they differ from differences of the "
      "loss by {:.1e}, of each parameter's gradient by norm; {} is allowed.</p>\n",
      *r.slopes, power_of_ten(bound_of_slopes_of(r.asked.model)));
}

std::string note_on_plan(report const& r, plan const& p) {
  std::string const softmax = note_on_attention(p);
  if (r.asked.model.delta_layers() == 0) return softmax;
  return softmax + (p.delta == delta_by::heads
                        ? " For gated delta nets ranks exchange tokens for heads."
                        : " For gated delta nets each rank sends maps of the state to those who own later tokens of a document.");
}

} // namespace trainer
