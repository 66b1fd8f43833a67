// The folder of a file that is going to be written, opened without following a link that a stranger has planted on the way.
// Links are ordinary on the way to a scratch disk; in a folder like /tmp, where others may write, they may be somebody's trap.
#pragma once

#include <array>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace sp::detail {

/// Owns a descriptor; -1 is none.
class descriptor {
public:
  explicit descriptor(int fd = -1) noexcept : fd_(fd) {}
  descriptor(descriptor&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  descriptor& operator=(descriptor&& o) noexcept {
    std::swap(fd_, o.fd_);
    return *this;
  }
  ~descriptor() {
    if (int const before = errno; fd_ >= 0) ::close(fd_), errno = before;
  }
  int get() const noexcept { return fd_; }
  bool good() const noexcept { return fd_ >= 0; }

private:
  int fd_;
};

#if defined(O_PATH)

/// Walks from `at` along `path`. None, with errno, where there is no such folder or a link is not to be trusted: it lies where a group or
/// everybody may write, and belongs neither to this user nor to the owner of the folder it lies in. (Linux has a switch for such a rule in
/// sticky folders.) Trusted are whoever owns a folder on the way, who may put anything into it, and folders themselves, whoever made them.
inline descriptor walk(descriptor at, std::string_view path, int links) {
  while (at.good() && !path.empty()) {
    std::string const name(path.substr(0, path.find('/')));
    path.remove_prefix(name.size() + (name.size() < path.size()));
    if (name.empty()) continue;
    descriptor next(::openat(at.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat found {};
    struct stat around {};
    if (!next.good() || ::fstat(next.get(), &found) != 0 || ::fstat(at.get(), &around) != 0) return descriptor();
    if (S_ISLNK(found.st_mode)) {
      bool const ours = found.st_uid == ::geteuid() || found.st_uid == around.st_uid;
      std::array<char, 4096> target{};
      ssize_t const n = ::readlinkat(next.get(), "", target.data(), target.size());
      if (n <= 0 || links == 0 || ((around.st_mode & (S_IWOTH | S_IWGRP)) != 0 && !ours)) {
        errno = links == 0 ? ELOOP : EACCES;
        return descriptor();
      }
      std::string_view const to(target.data(), std::size_t(n));
      next = walk(descriptor(::openat(at.get(), to.front() == '/' ? "/" : ".", O_PATH | O_CLOEXEC)), to, links - 1);
    }
    at = std::move(next);
  }
  return at;
}
inline descriptor open_folder(std::string_view path) {
  return walk(descriptor(::open(path.starts_with('/') ? "/" : ".", O_PATH | O_CLOEXEC)), path, 40);
}

#else // no way to look at a link before it is followed

inline descriptor open_folder(std::string const& path) {
  return descriptor(::open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

#endif

} // namespace sp::detail
