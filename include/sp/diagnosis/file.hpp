// Files of diagnosis: names from patterns, and files that only their owner can read.
// Nothing here throws for what a file system does: whoever writes is usually reporting another failure.
#pragma once

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include <sp/diagnosis/folder.hpp>

namespace sp::detail {

inline std::string const& host_name() {
  static std::string const name = [] {
    std::array<char, 256> text{};
    return ::gethostname(text.data(), text.size() - 1) == 0 ? std::string(text.data()) : std::string("unknown");
  }();
  return name;
}

/// `pattern` with %h, %p, %r, %n and %% replaced; a rank of -1 is written as "x".
inline std::string expand(std::string_view pattern, int rank, int family) {
  std::string name;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    char const next = pattern[i] == '%' && i + 1 < pattern.size() ? pattern[++i] : '\0';
    switch (next) {
    case '\0':
      name += pattern[i];
      break;
    case 'h':
      name += host_name();
      break;
    case 'p':
      name += std::to_string(::getpid());
      break;
    case 'r':
      name += rank < 0 ? "x" : std::to_string(rank);
      break;
    case 'n':
      name += std::to_string(family);
      break;
    case '%':
      name += '%';
      break;
    default:
      (name += '%') += next;
    }
  }
  return name;
}

/// A regular file of this user, new, emptied or (`append`) continued, of mode 0600 whatever the umask is. What cannot be opened or
/// written is told on stderr, once. Nothing blocks: a FIFO under this name is refused, and so is a link, also a hard one, which may be
/// another file of this user that somebody has linked here.
class private_file {
public:
  struct standard_stream {
    int fd;
    char const* name;
  };
  explicit private_file(std::string path, bool append = false) : path_(std::move(path)), file_(open(append)) {
    if (!good()) tell("cannot be written");
  }
  /// A stream of the process, which stays open.
  explicit private_file(standard_stream s) : path_(s.name), standard_(s.fd) {}

  bool good() const noexcept { return standard_ >= 0 || file_.good(); }
  /// Forgets what comes behind the first `bytes` bytes. False when the file system refuses.
  bool cut(long long bytes) const noexcept { return ::ftruncate(file_.get(), off_t(bytes)) == 0; }
  /// At the end, or at `place`. False when the file system refuses.
  bool write(std::string_view text, long long place = -1) const noexcept {
    int const fd = standard_ >= 0 ? standard_ : file_.get();
    while (!text.empty()) {
      ssize_t const n = place < 0 ? ::write(fd, text.data(), text.size()) : ::pwrite(fd, text.data(), text.size(), off_t(place));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        tell("has lost what came last");
        return false;
      }
      text.remove_prefix(std::size_t(n));
      if (place >= 0) place += n;
    }
    return true;
  }

private:
  descriptor open(bool append) const {
    std::size_t const name = path_.rfind('/') + 1; // npos + 1 is 0
    descriptor const folder = open_folder(path_.substr(0, name));
    if (!folder.good()) return descriptor();
    int const flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | (append ? O_APPEND : 0);
    descriptor file(::openat(folder.get(), path_.c_str() + name, flags, 0600));
    struct stat about {};
    if (!file.good() || ::fstat(file.get(), &about) != 0) return descriptor();
    errno = !S_ISREG(about.st_mode) ? ENXIO : about.st_uid != ::geteuid() ? EPERM : about.st_nlink != 1 ? EMLINK : 0;
    if (errno != 0 || ::fchmod(file.get(), 0600) != 0 || (!append && ::ftruncate(file.get(), 0) != 0)) return descriptor();
    return file;
  }
  void tell(char const* what) const noexcept {
    int const why = errno;
    if (told_.exchange(true, std::memory_order_relaxed)) return;
    std::fprintf(stderr, "sp: %s %s: %s\n", path_.c_str(), what, why == ENXIO ? "not a regular file" : std::strerror(why));
  }

  std::string path_;
  int standard_ = -1;
  descriptor file_{};
  mutable std::atomic<bool> told_{false};
};

} // namespace sp::detail
