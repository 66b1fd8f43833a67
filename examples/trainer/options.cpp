// Reads the command line with CLI11.
// Compiled once for all programs, and apart from training: both are heavy.
#include "options.hpp"

#include <algorithm>
#include <sstream>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

namespace trainer {
namespace {

/// The repository's own sources and documentation.
std::vector<std::filesystem::path> own_text() {
  std::vector<std::filesystem::path> paths;
  for (char const* name :
       {"include", "examples", "tests", "bench", "docs", "cmake", "README.md", "CHANGELOG.md", "CMakeLists.txt"}) {
    std::filesystem::path p = std::filesystem::path(SP_SOURCE_DIR) / name;
    if (std::filesystem::exists(p)) paths.push_back(p);
  }
  return paths;
}

/// Three gated delta nets, then a layer of softmax attention. What a net gives a document's first token is its value times a number that
/// may be nearly 0, and the norm behind it leaves of that number little but its sign: so training soon amplifies what rounding did.
void make_hybrid(settings& s) {
  s.compared_steps = 8;
  s.learning_rate = std::min(s.learning_rate, 3e-3);
  shape& m = s.model;
  m.layers = 4;
  m.delta = {.run = 3, .k_heads = 2, .v_heads = m.q_heads, .key_dim = m.head_dim, .value_dim = 3 * m.head_dim / 2, .taps = 4};
}

/// A model and a stream so small that every strategy runs in a moment: for tests.
void make_quick(settings& s) {
  s.model = {.dim = 32, .layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 8, .hidden = 64, .delta = {}};
  s.stream = 512;
  s.longest = 192;
  s.learning_rate = 1e-2;
}

sp::schedule schedule_of(std::string const& name) {
  if (name == "cast") return sp::schedule::cast;
  return name == "pull" ? sp::schedule::pull : sp::schedule::rotate;
}

/// A sentence where an option does not fit what computes; empty: all fit.
std::string misfit(settings const& s, bool kernel_is_named) {
  if (kernel_is_named && !s.on_device)
    return "--kernel names what computes attention on a CUDA device, and this program uses none: start examples/run.sh --cuda";
  if (s.on_device && s.kind == model_kind::hybrid)
    return "--model hybrid has layers of linear attention, which has no kernel for devices: leave out --cuda";
  if (s.on_device && s.workers > 1)
    return "--workers are threads of the host that compute attention, which a CUDA device does here: leave it out";
  return "";
}

} // namespace

std::optional<int> read_options(int argc, char** argv, bool speaks, settings& asked) {
  CLI::App app{"Trains a byte-level language model by one rank and by several, and compares their numbers."};
  app.add_option("--text", asked.text, "file or folder to train on; may be given several times (default: this repository)");
  std::string model;
  app.add_option("--model", model,
                 "text: layers of softmax attention; hybrid: three gated delta nets before each of them, as in Qwen3-Next")
      ->transform(CLI::IsMember({"text", "hybrid"}, CLI::ignore_case));
  app.add_option("--out", asked.out, "folder for train.json and report.html")->capture_default_str();
  CLI::Range const some_steps(1, 1000000);
  auto* steps = app.add_option("--steps", asked.steps, "training steps in float")->capture_default_str()->check(some_steps);
  auto* more =
      app.add_option("--double-steps", asked.double_steps, "training steps in double")->capture_default_str()->check(some_steps);
  app.add_option("--seed", asked.seed, "of the weights and of the order of documents")
      ->capture_default_str()
      ->check([](std::string const& n) { return n.starts_with('-') ? std::string("a seed is not below 0") : std::string(); });
  std::string schedule, computes; // names, whose numbers mean nothing to anybody
  auto* in_rings = app.add_option("--schedule", schedule, "how keys reach queries in all rings")
                       ->transform(CLI::IsMember({"rotate", "cast", "pull"}, CLI::ignore_case));
  auto* kernel =
      app.add_option(
             "--kernel", computes,
             "what computes attention on a CUDA device: flash, in bf16, or reference, in float; in double always reference")
          ->transform(CLI::IsMember({"flash", "reference"}, CLI::ignore_case));
  app.footer("examples/run.sh --mpi P runs the ranks as P processes under MPI (2 or more; needs Open MPI).\n"
             "examples/run.sh --cuda runs attention and matrix products on a CUDA device (needs nvcc and cuBLAS).");
  app.add_option("--workers", asked.workers, "threads of each rank that compute attention; they change no number")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_flag("--quick", asked.quick, "a tiny model and stream, for tests");
  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& e) {
    std::ostringstream nothing;
    return (speaks ? app.exit(e) : app.exit(e, nothing, nothing)) == 0 ? 0 : 2;
  }
  if (model == "hybrid") asked.kind = model_kind::hybrid;
  if (!in_rings->empty()) asked.schedule = schedule_of(schedule);
  if (!kernel->empty()) asked.kernel = computes == "flash" ? device_kernel::flash : device_kernel::reference;
  if (std::string const why = misfit(asked, !kernel->empty()); !why.empty()) {
    if (speaks) fmt::print(stderr, "sp_trainer: {}\n", why);
    return 2;
  }
  if (asked.quick) {
    make_quick(asked);
    if (steps->empty()) asked.steps = 12;
    if (more->empty()) asked.double_steps = 3;
  }
  if (asked.kind == model_kind::hybrid) make_hybrid(asked);
  if (asked.text.empty()) asked.text = own_text();
  return std::nullopt;
}

} // namespace trainer
