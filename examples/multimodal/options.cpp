// Reads the command line with CLI11.
// Compiled apart from training: both are heavy.
#include "multimodal/options.hpp"

#include <map>

#include <CLI/CLI.hpp>

#include "multimodal/data/task.hpp"

namespace multimodal {
namespace {

/// A model and steps so small that every strategy runs in a moment: for tests.
void make_quick(settings& s) {
  s.model.tower.dim = 16;
  s.model.tower.head_dim = 4;
  s.model.tower.hidden = 16;
  s.model.dim = 32;
  s.model.head_dim = 8;
  s.model.hidden = 32;
  s.samples = 6;
  s.questions = 12;
}

} // namespace

std::optional<int> read_options(int argc, char** argv, settings& asked) {
  CLI::App app{"Trains a small vision-language model by one rank and by several, and compares their numbers."};
  app.add_option("--images", asked.images, "csv of handwritten digits, as scikit-learn has it (default: digits are drawn)");
  std::map<std::string, splice_kind> const splices{
      {"llava", splice_kind::llava}, {"internvl", splice_kind::internvl}, {"qwen", splice_kind::qwen}};
  app.add_option("--splice", asked.splice, "how pictures enter the text: llava, internvl or qwen (default)")
      ->transform(CLI::CheckedTransformer(splices, CLI::ignore_case));
  app.add_option("--out", asked.out, "folder for train.json and report.html")->capture_default_str();
  CLI::Range const some_steps(1, 1000000);
  auto* steps = app.add_option("--steps", asked.steps, "training steps in float")->capture_default_str()->check(some_steps);
  auto* more =
      app.add_option("--double-steps", asked.double_steps, "training steps in double")->capture_default_str()->check(some_steps);
  app.add_option("--seed", asked.seed, "of the weights, the drawn digits and the questions")->capture_default_str();
  app.add_flag("--quick", asked.quick, "a tiny model and few steps, for tests");
  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  asked.model = shape_for(asked.splice);
  asked.model.vocabulary = vocabulary;
  if (asked.quick) {
    make_quick(asked);
    if (steps->empty()) asked.steps = 5;
    if (more->empty()) asked.double_steps = 4;
  }
  return std::nullopt;
}

} // namespace multimodal
