// Reads text files into documents of bytes: the corpus that every rank reads for itself.
// Deterministic: names are sorted, so the order of documents never depends on the file system.
#pragma once

#include <stdexcept>

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

} // namespace trainer
