// Real text as training data: files become documents of bytes, and a step packs several of them into one stream.
// Deterministic: the same files, sizes and seed give the same steps on every rank, so nobody has to send text around.
#pragma once

#include <random>
#include <string>

#include "config.hpp"

namespace trainer {

/// Documents of a text, none longer than settings::longest, and what was met while reading it.
struct corpus {
  std::vector<std::string> documents;
  index_t bytes = 0;
  int files = 0;          ///< read
  int binary = 0;         ///< skipped: they hold NUL bytes
  int unreadable = 0;     ///< skipped: they could not be opened
  bool truncated = false; ///< there was more text than `limit`
};

/// Why a text cannot be trained on; main() prints it and exits with code 2.
struct bad_text : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Reads files, and folders recursively (hidden entries and symbolic links inside them are left alone). Throws bad_text.
corpus read_corpus(std::vector<std::filesystem::path> const& paths, index_t longest, index_t limit = index_t{64} << 20);

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

/// The documents of one of `parts` data ranks: whole documents, neighbours together, about equally many tokens.
step_text share(step_text const& step, int part, int parts);

} // namespace trainer
