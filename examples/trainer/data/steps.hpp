// Packs documents into training steps: streams of equal length, in an order that is new in every epoch.
// Deterministic: the same corpus, sizes and seed give the same steps on every rank, so nobody has to send text around.
#pragma once

#include <random>

#include "data/corpus.hpp"

namespace trainer {

/// The tokens of one step (or of one data rank's share of it) and where its documents begin.
struct step_text {
  std::vector<std::int64_t> tokens;   ///< (N): bytes 0 .. 255
  std::vector<index_t> cu_seqlens{0}; ///< documents + 1
  index_t first = 0;                  ///< position of the first token in the whole step

  index_t size() const { return index_t(tokens.size()); }
  index_t documents() const { return index_t(cu_seqlens.size()) - 1; }
};

/// Hands out steps of exactly `stream` tokens, epoch after epoch in a new random order. The last document of a step is cut
/// where the stream ends; its rest opens the next step.
class reader {
public:
  reader(corpus const& text, index_t stream, std::uint64_t seed);
  step_text next();

private:
  void shuffle();

  corpus const* text_;
  index_t stream_;
  std::mt19937_64 random_;
  std::vector<std::size_t> order_;
  std::size_t at_ = 0;   ///< in order_
  std::size_t used_ = 0; ///< bytes already taken of that document
};

/// The first `documents` of a step, of each at most so many tokens.
step_text beginnings(step_text const& step, index_t documents, index_t tokens);

/// The documents of one of `parts` data ranks: whole documents, neighbours together, about equally many tokens.
step_text share(step_text const& step, int part, int parts);

} // namespace trainer
