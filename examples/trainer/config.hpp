// What the trainer is asked to do: the model's shape and the numbers of a run, and what one run reports.
// Plain data without behaviour; the program's options fill it in (main.cpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <sp/core/index.hpp>

namespace trainer {

using sp::index_t;

/// Labels that count for no loss: the last token of a document has no successor.
inline constexpr std::int64_t ignored = -100;

/// A byte-level decoder.
struct shape {
  static constexpr index_t vocabulary = 256;
  index_t dim = 128;
  index_t layers = 2;
  index_t q_heads = 4;
  index_t kv_heads = 2;
  index_t head_dim = 32;
  index_t hidden = 256; ///< width of the SwiGLU layer

  index_t qkv_width() const { return (q_heads + 2 * kv_heads) * head_dim; }
};

struct settings {
  std::vector<std::filesystem::path> text;
  std::filesystem::path out = "report";
  shape model{};
  int steps = 32;         ///< in float
  int double_steps = 4;   ///< in double, where agreement is exact to 1e-9
  index_t stream = 4096;  ///< tokens of one step
  index_t longest = 1536; ///< longer files become several documents
  double learning_rate = 3e-3;
  double weight_decay = 0.1;
  double clip = 1.0;
  std::uint64_t seed = 1;
  bool quick = false;
};

/// Who owns which tokens of the first step, for the report: one entry per stretch of the packed stream.
struct owned_run {
  int rank = 0;
  index_t begin = 0, count = 0, stride = 1;
};

/// Everything one strategy did in one number type.
struct outcome {
  std::string strategy; ///< "zigzag ring 4"
  std::string type;     ///< "float" or "double"
  int ranks = 1;
  std::vector<double> losses;    ///< mean over the step's valid tokens, before the update
  std::vector<double> norms;     ///< of the whole gradient, before clipping
  std::vector<double> gradients; ///< the first step's, all parameters
  double seconds = 0;
  double tokens = 0;         ///< over all steps
  double bytes_counted = 0;  ///< sent by attention, all ranks, all steps
  double bytes_expected = 0; ///< the closed form for the same steps
  index_t workspace = 0;     ///< peak attention memory (scratch and saved) of the rank that needs most

  // against the one-rank run of the same type
  double loss_difference = 0, norm_difference = 0, gradient_difference = 0;

  double tokens_per_second() const { return seconds > 0 ? tokens / seconds : 0; }
  double sent_per_token() const { return bytes_counted / tokens; }
  double expected_per_token() const { return bytes_expected / tokens; }
};

} // namespace trainer
