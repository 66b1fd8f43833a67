// Files of diagnosis: names from patterns, JSON texts, and files that only their owner can read.
// Nothing here throws for what a file system does: whoever writes is usually reporting another failure.
#pragma once

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

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

/// A text as JSON writes it.
inline std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (char const c : text) {
    if (c == '"' || c == '\\') {
      (out += '\\') += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      std::array<char, 8> code{};
      std::snprintf(code.data(), code.size(), "\\u%04x", unsigned(static_cast<unsigned char>(c)));
      out += code.data();
    } else {
      out += c;
    }
  }
  return out += '"';
}

/// A new file, or an old one emptied, of mode 0600 whatever the umask is. Links are not followed.
class private_file {
public:
  explicit private_file(std::string const& path, bool append = false)
      : fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (append ? O_APPEND : O_TRUNC), 0600)) {
    struct stat about {};
    if (fd_ >= 0 && ::fstat(fd_, &about) == 0 && S_ISREG(about.st_mode) && ::fchmod(fd_, 0600) != 0) close();
    if (fd_ < 0) std::fprintf(stderr, "sp: %s cannot be written: %s\n", path.c_str(), std::strerror(errno));
  }
  private_file(private_file&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  private_file& operator=(private_file&& o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
  }
  ~private_file() { close(); }

  bool good() const { return fd_ >= 0; }
  int descriptor() const { return fd_; }
  /// At the end, or at `place`. False when the file system refuses.
  bool write(std::string_view text, long long place = -1) const {
    while (!text.empty()) {
      ssize_t const n =
          place < 0 ? ::write(fd_, text.data(), text.size()) : ::pwrite(fd_, text.data(), text.size(), off_t(place));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      text.remove_prefix(std::size_t(n));
      if (place >= 0) place += n;
    }
    return true;
  }

private:
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  int fd_;
};

} // namespace sp::detail
