// What one run of one plan left behind: the curves and costs of the text trainer, and what it answered.
// Plain data: training fills it in, comparison adds the differences from one rank, the report shows it.
#pragma once

#include "multimodal/data/task.hpp"
#include "trainer/training/outcome.hpp"

namespace multimodal {

/// A question on held-back pictures, and what the model wrote: each character behind the right ones before it. All of them are right
/// exactly where the model would write the answer alone, always taking the likeliest character; behind a wrong one it might go on otherwise.
struct answered {
  sample asked;
  std::string given;
  bool right() const { return given == asked.answer; }
};

struct outcome : trainer::outcome {
  double patches = 0;            ///< over all steps
  std::vector<answered> answers; ///< none where nothing was asked

  double accuracy() const {
    double right = 0;
    for (answered const& a : answers) right += a.right();
    return answers.empty() ? 0 : right / double(answers.size());
  }
  double patches_per_second() const { return seconds > 0 ? patches / seconds : 0; }
};

} // namespace multimodal
