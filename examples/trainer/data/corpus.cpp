// Reads text files into documents: folders recursively, long files cut at line ends, binary files left out.
// What could not be used is counted and said, never guessed at.
#include "data/corpus.hpp"

#include <algorithm>
#include <fstream>

namespace trainer {
namespace fs = std::filesystem;

namespace {

bool hidden(fs::path const& p) { return p.filename().string().starts_with('.'); }

/// All regular files below a folder, sorted by name.
std::vector<fs::path> files_below(fs::path const& folder) {
  std::vector<fs::path> found;
  std::error_code ignore;
  auto options = fs::directory_options::skip_permission_denied;
  for (auto it = fs::recursive_directory_iterator(folder, options, ignore); it != fs::recursive_directory_iterator();
       it.increment(ignore)) {
    if (hidden(it->path())) {
      it.disable_recursion_pending();
      continue;
    }
    if (it->is_regular_file(ignore) && !it->is_symlink(ignore)) found.push_back(it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// Cuts where a line ends, if one ends in the second half of the piece.
std::size_t cut_at(std::string const& bytes, std::size_t from, std::size_t longest) {
  if (bytes.size() - from <= longest) return bytes.size() - from;
  std::size_t line = bytes.rfind('\n', from + longest - 1);
  return line != std::string::npos && line + 1 > from + longest / 2 ? line + 1 - from : longest;
}

void add_file(corpus& text, fs::path const& path, std::size_t longest, index_t limit) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    ++text.unreadable;
    return;
  }
  std::string bytes;
  for (char block[1 << 16]; text.bytes + index_t(bytes.size()) < limit && (in.read(block, sizeof block), in.gcount() > 0);)
    bytes.append(block, std::size_t(in.gcount()));
  if (bytes.find('\0') != std::string::npos) {
    ++text.binary;
    return;
  }
  ++text.files;
  text.bytes += index_t(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    std::size_t n = cut_at(bytes, at, longest);
    if (n > 1 || bytes.size() == n) text.documents.push_back(bytes.substr(at, n)); // one byte alone teaches nothing
    at += n;
  }
}

} // namespace

corpus read_corpus(std::vector<fs::path> const& paths, index_t longest, index_t limit) {
  corpus text;
  std::string names;
  for (fs::path const& path : paths) {
    names += (names.empty() ? "" : ", ") + path.string();
    std::error_code ignore;
    if (!fs::exists(path, ignore)) throw bad_text("there is no file or folder '" + path.string() + "'");
    std::vector<fs::path> files = fs::is_directory(path, ignore) ? files_below(path) : std::vector{path};
    for (fs::path const& file : files) {
      text.truncated = text.bytes >= limit;
      if (text.truncated) break;
      add_file(text, file, std::size_t(longest), limit);
    }
  }
  bool any = std::any_of(text.documents.begin(), text.documents.end(), [](std::string const& d) { return d.size() > 1; });
  if (!any)
    throw bad_text("no text in " + names + ": " + std::to_string(text.files) + " text files with " + std::to_string(text.bytes) +
                   " bytes, " + std::to_string(text.binary) + " binary and " + std::to_string(text.unreadable) +
                   " unreadable files skipped");
  return text;
}

} // namespace trainer
