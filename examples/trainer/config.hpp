// What the trainer is asked to do: the shape of the model and the numbers of a run.
// Plain data without behaviour; the options of the program fill it in (options.cpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <sp/attention/call/options.hpp>

namespace trainer {

using sp::index_t;

/// Labels that count for no loss: the last token of a document has no successor.
inline constexpr std::int64_t ignored = -100;

/// Gated delta nets among the layers of a decoder; value heads are a multiple of key heads.
struct delta_shape {
  index_t run = 0; ///< so many layers before each layer of softmax attention; 0: softmax attention throughout
  index_t k_heads = 2, v_heads = 4;
  index_t key_dim = 32, value_dim = 32;
  index_t taps = 4; ///< of the convolution

  index_t key_width() const { return k_heads * key_dim; }
  index_t value_width() const { return v_heads * value_dim; }
  /// Of [q | k | v], which the convolution is over.
  index_t mixed_width() const { return 2 * key_width() + value_width(); }
};

/// A byte-level decoder.
struct shape {
  static constexpr index_t vocabulary = 256;
  index_t dim = 128;
  index_t layers = 2;
  index_t q_heads = 4;
  index_t kv_heads = 2;
  index_t head_dim = 32;
  index_t hidden = 256; ///< width of the SwiGLU layer
  delta_shape delta{};

  bool is_delta(index_t layer) const { return layer % (delta.run + 1) != delta.run; }
  index_t delta_layers() const {
    index_t n = 0;
    for (index_t l = 0; l < layers; ++l) n += is_delta(l);
    return n;
  }
};

/// Layers of softmax attention alone, or gated delta nets with one of softmax attention behind every three, as Qwen3-Next has them.
enum class model_kind { text, hybrid };

/// What computes attention on a device: sp::cuda_flash, in bf16, or sp::basic_reference, in the model's type. In double always that.
enum class device_kernel { flash, reference };

struct settings {
  std::vector<std::filesystem::path> text;
  std::filesystem::path out = "report";
  model_kind kind = model_kind::text;
  shape model{};
  int steps = 32;                                       ///< in float
  int double_steps = 4;                                 ///< in double, where agreement is exact to 1e-9
  index_t stream = 4096;                                ///< tokens of one step
  index_t longest = 1536;                               ///< longer files become several documents
  int compared_steps = std::numeric_limits<int>::max(); ///< of them, the first, with those of one rank
  double learning_rate = 3e-3;
  double weight_decay = 0.1;
  double clip = 1.0;
  int workers = 1; ///< threads of each rank that compute attention
  std::uint64_t seed = 1;
  std::optional<sp::schedule> schedule{}; ///< of all rings; nothing: what each plan says
  bool quick = false;
  bool on_device = false; ///< attention, loss and sums of ranks, and matrix products; by main(), not by an option
  device_kernel kernel = device_kernel::flash;

  /// What a run is called whose model computes in T: "bf16" is a model in float with attention in bf16.
  template <class T>
  char const* type_of() const {
    if (sizeof(T) == 8) return "double";
    return on_device && kernel == device_kernel::flash ? "bf16" : "float";
  }
};

} // namespace trainer
