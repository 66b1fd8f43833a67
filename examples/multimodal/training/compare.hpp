// The judgement: every run against the one-rank run of the same number type, and what a run must have learnt.
// Bounds are those of the text trainer; first gradients in double have a narrower one.
#pragma once

#include "multimodal/model/table.hpp"
#include "multimodal/training/outcome.hpp"
#include "trainer/training/compare.hpp"

namespace multimodal {

inline double bound_of_gradients(std::string const& type) { return type == "double" ? 1e-10 : trainer::bound_of(type); }

/// Right answers that are asked of a run, as a part of all; nothing of short runs, nor of handwriting, which is harder to read.
inline double required_accuracy(settings const& asked, bool drawn) { return drawn && asked.steps >= 500 ? 0.8 : 0; }

/// One sentence per broken promise; empty when all is well.
inline std::vector<std::string> complaints(std::vector<outcome> const& runs, settings const& asked, bool drawn, double slopes) {
  std::vector<std::string> out;
  trainer::judge_slopes(slopes, trainer::bound_of_slopes, out);
  for (outcome const& run : runs) {
    trainer::judge(run, trainer::bound_of(run.type), bound_of_gradients(run.type), out);
    trainer::judge_fall(run, out);
    if (!run.answers.empty() && !(run.accuracy() >= required_accuracy(asked, drawn)))
      out.push_back(fmt::format("{} in {}: {:.3f} of the answers are right, {:.1f} were expected", run.strategy, run.type,
                                run.accuracy(), required_accuracy(asked, drawn)));
  }
  return out;
}

} // namespace multimodal
