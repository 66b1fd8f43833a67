// Reads the command line with CLI11.
// Compiled apart from training: both are heavy.
#include "multimodal/options.hpp"

#include <string>

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
  using enum splice_kind;
  CLI::App app{"Trains a small vision-language model by one rank and by several, and compares their numbers."};
  app.add_option(
         "--images", asked.images,
         "csv of handwritten digits, as scikit-learn has it: sklearn/datasets/data/digits.csv.gz of its package, unpacked "
         "(default: digits are drawn)")
      ->check([](std::string const& path) { return path.empty() ? std::string("a path is missing") : std::string(); });
  std::string splice = name_of(asked.splice);
  app.add_option("--splice", splice, "how pictures enter the text")
      ->capture_default_str()
      ->check(CLI::IsMember({name_of(llava), name_of(internvl), name_of(qwen)}));
  app.add_option("--out", asked.out, "folder for train.json and report.html")->capture_default_str();
  CLI::Range const some_steps(1, 1000000);
  auto* steps =
      app.add_option("--steps", asked.steps, "training steps in float; strategies that need not learn everything take 60 at most")
          ->capture_default_str()
          ->check(some_steps);
  auto* more =
      app.add_option("--double-steps", asked.double_steps, "training steps in double")->capture_default_str()->check(some_steps);
  app.add_option("--seed", asked.seed, "of the weights, the drawn digits and the questions")
      ->capture_default_str()
      ->check([](std::string const& number) {
        return number.starts_with('-') ? std::string("a seed is not below 0") : std::string();
      });
  app.add_flag("--quick", asked.quick, "a tiny model and few steps, for tests");
  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  for (splice_kind kind : {llava, internvl, qwen})
    if (splice == name_of(kind)) asked.splice = kind;
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
