// What the multimodal trainer is asked to do: shapes of the tower and the decoder, the splice, and the numbers of a run.
// Plain data without behaviour; the options of the program fill it in (main.cpp).
#pragma once

#include <cstdint>
#include <filesystem>

#include "trainer/config.hpp"

namespace multimodal {

using sp::index_t;
using trainer::ignored;

/// How visual rows enter the text, after the models that do it so.
enum class splice_kind {
  llava,    ///< one placeholder token becomes all rows of its image, and a learned row ends each line; a class token in the tower
  internvl, ///< one token a row, overwritten one to one
  qwen      ///< the tokens between two marks are overwritten; positions with three axes
};

/// The vision tower: patches of pixels, layers of full attention within an image.
struct tower_shape {
  index_t pixels = 2; ///< side of a patch
  index_t dim = 32;
  index_t layers = 2;
  index_t heads = 4;
  index_t head_dim = 8;
  index_t hidden = 64;
  index_t prefix = 0;  ///< class tokens of an image
  bool rotary = true;  ///< positions by rotation in two dimensions; otherwise learned ones of row and column
  index_t longest = 8; ///< rows or columns that learned positions know

  index_t pixels_of_patch() const { return pixels * pixels; }
};

/// The decoder, and how the tower's features reach it.
struct model_shape {
  tower_shape tower{};
  index_t merge = 2; ///< side of the square of patches that becomes one row
  index_t dim = 64;
  index_t layers = 2;
  index_t q_heads = 4;
  index_t kv_heads = 2;
  index_t head_dim = 16;
  index_t hidden = 128;
  index_t deepstack = 1;    ///< tower layers whose features are added after the decoder layers of the same number
  bool three_axes = false;  ///< rotary positions of time, row and column instead of one number
  index_t vocabulary = 0;   ///< set from the task
  index_t learned_rows = 0; ///< of the splice

  index_t grain() const { return merge * merge; }
};

inline char const* name_of(splice_kind s) {
  return s == splice_kind::llava ? "llava" : s == splice_kind::internvl ? "internvl" : "qwen";
}

inline model_shape shape_for(splice_kind splice) {
  model_shape m;
  m.tower.prefix = splice == splice_kind::llava ? 1 : 0;
  m.tower.rotary = splice == splice_kind::qwen;
  m.three_axes = splice == splice_kind::qwen;
  m.learned_rows = splice == splice_kind::llava ? 1 : 0;
  return m;
}

struct settings {
  std::filesystem::path images{};                  ///< csv of handwritten digits; empty: they are drawn
  std::filesystem::path out = "multimodal-report"; ///< not the one of the text trainer, which would be overwritten
  splice_kind splice = splice_kind::qwen;
  model_shape model{};
  int steps = 600;        ///< in float
  int short_steps = 60;   ///< of those, that a strategy takes which need not learn everything once more
  int compared_steps = 8; ///< of them, with those of one rank: later ones differ, as training amplifies what rounding did
  int double_steps = 4;   ///< in double
  int samples = 32;       ///< texts of a step
  int questions = 200;    ///< on held-back pictures
  double learning_rate = 3e-3;
  double weight_decay = 0.01;
  double clip = 1.0;
  std::uint64_t seed = 1;
  bool quick = false;
};

} // namespace multimodal
