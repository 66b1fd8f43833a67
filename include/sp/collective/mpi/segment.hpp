// One piece of memory that processes of a machine share: an anonymous file of the kernel, which peers open through its owner's /proc.
// Nobody waits for anybody, no name is left behind whatever kills a process, and what a process has mapped stays valid for it.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sp/core/error.hpp>
#include <sp/core/index.hpp>
#include <sp/diagnosis/folder.hpp>

namespace sp::detail {

/// A process as its peers on the same machine find its segments.
struct segment_owner {
  std::int64_t process = 0; ///< its pid
  std::int64_t secret = 0;  ///< drawn at random: no other process is taken for it, not in another pid namespace either

  static segment_owner self() {
    segment_owner o{std::int64_t(::getpid()), 0};
    if (::getrandom(&o.secret, sizeof o.secret, 0) != ssize_t(sizeof o.secret))
      fail({errc::backend_error, std::string("getrandom failed: ") + std::strerror(errno), "", "sp::mpi_shared"});
    return o;
  }
  /// What the kernel shows as the name of segment `number`; nobody opens anything by it.
  std::string name_of(int number) const {
    char text[17]{};
    for (int i = 0; i < 16; ++i) text[i] = "0123456789abcdef"[std::uint64_t(secret) >> (4 * i) & 15];
    return std::string("sp-") + text + "-" + std::to_string(number);
  }
};

/// Why memory of a peer could not be mapped.
struct segment_problem {
  std::string text{};
  bool gone = false; ///< its owner has closed it; else something is in the way here
};

class shared_segment {
public:
  shared_segment() = default;
  shared_segment(shared_segment&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), bytes_(o.bytes_), descriptor_(std::exchange(o.descriptor_, -1)) {}
  shared_segment& operator=(shared_segment&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    std::swap(descriptor_, o.descriptor_);
    return *this;
  }
  ~shared_segment() {
    if (data_) ::munmap(data_, std::size_t(bytes_));
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  /// A segment of this process; its pages are zero, and taken from the machine when they are first written.
  [[nodiscard]] static shared_segment create(segment_owner const& self, int number, index_t bytes) {
    shared_segment s;
    s.descriptor_ = ::memfd_create(self.name_of(number).c_str(), MFD_CLOEXEC);
    if (s.descriptor_ < 0 || ::ftruncate(s.descriptor_, off_t(bytes)) != 0 || !s.map(bytes))
      fail({errc::backend_error, "no " + std::to_string(bytes) + " bytes of shared memory could be made: " + std::strerror(errno),
            "Look at the limits of memory and of open files (ulimit -v, ulimit -n)", "sp::mpi_shared"});
    return s;
  }
  /// Segment `number` of a peer, which keeps it open as `descriptor`. Without data, and `problem` says why, where that is
  /// impossible. Never opens anything else, whoever has that pid here.
  [[nodiscard]] static shared_segment attach(segment_owner const& peer, int number, int descriptor, segment_problem& problem) {
    std::string const path = "/proc/" + std::to_string(peer.process) + "/fd/" + std::to_string(descriptor);
    auto failed = [&](char const* what, bool gone = false) {
      problem = {path + ": " + what, gone};
      return shared_segment{};
    };
    // Held first, then looked at: between a look and an opening the peer may put something else under its number.
    detail::descriptor const held(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!held.good()) return failed(std::strerror(errno), errno == ENOENT);
    std::string const here = "/proc/self/fd/" + std::to_string(held.get());
    char target[128];
    ssize_t const n = ::readlink(here.c_str(), target, sizeof target);
    if (n < 0) return failed(std::strerror(errno));
    if (std::string_view(target, std::size_t(n)) != "/memfd:" + peer.name_of(number) + " (deleted)")
      return failed("not the memory of that rank", true);
    shared_segment s;
    s.descriptor_ = ::open(here.c_str(), O_RDWR | O_CLOEXEC);
    struct stat about {};
    if (s.descriptor_ < 0 || ::fstat(s.descriptor_, &about) != 0 || !s.map(index_t(about.st_size)))
      return failed(std::strerror(errno));
    ::close(std::exchange(s.descriptor_, -1)); // the mapping stays
    return s;
  }

  std::byte* data() const noexcept { return data_; }
  index_t bytes() const noexcept { return bytes_; }
  int descriptor() const noexcept { return descriptor_; }

private:
  bool map(index_t bytes) {
    void* const at = ::mmap(nullptr, std::size_t(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    if (at == MAP_FAILED) return false;
    data_ = static_cast<std::byte*>(at);
    bytes_ = bytes;
    return true;
  }

  std::byte* data_ = nullptr;
  index_t bytes_ = 0;
  int descriptor_ = -1; ///< of the owner; a peer closes its own
};

} // namespace sp::detail
