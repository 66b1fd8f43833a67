// A memory that tests use in place of a device's: the library gets addresses without access, the bytes lie a constant distance further.
// What touches it on the host faults at once; only work that a queue runs is handed addresses of the bytes.
#pragma once

#include <sys/mman.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <type_traits>
#include <vector>

#include <sp/core/memory.hpp>
#include <sp/core/piece.hpp>

#include "support/sanitized.hpp"

#ifdef SP_TEST_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace support {

/// The tag of views.
struct elsewhere {};

/// What a rank takes memory M from.
template <class M>
using allocator_of = sp::basic_allocator<M>;

/// The one region of the process that all memory of this kind lies in.
class elsewhere_region {
public:
  static constexpr std::size_t half = std::size_t(1) << 28;

  static elsewhere_region& get() {
    static elsewhere_region the;
    return the;
  }
  elsewhere_region(elsewhere_region const&) = delete;

  /// Whether an address is one of those that the library holds.
  bool holds(void const* p) const noexcept { return std::uintptr_t(p) - std::uintptr_t(base_) < half; }
  /// Where the bytes of such an address are. Null, and what belongs to another memory, stays as it is.
  std::byte* real(std::byte* p) const noexcept { return holds(p) ? p + half : p; }

  /// Bytes that nobody else has, without access for anybody until expose().
  std::byte* take(std::size_t bytes) {
    std::lock_guard const lock(mutex_);
    for (std::size_t i = 0; i < free_.size(); ++i)
      if (free_[i].bytes == bytes) {
        std::byte* const p = free_[i].data;
        free_[i] = free_.back();
        free_.pop_back();
        return p;
      }
    if (used_ + bytes > half) throw std::bad_alloc();
    return base_ + std::exchange(used_, used_ + bytes);
  }
  void give(std::byte* p, std::size_t bytes) {
    std::lock_guard const lock(mutex_);
    free_.push_back({p, bytes});
  }

  // Called as work of a queue, in its order. What was never written, and what was given back, reads as these bytes: as NaN, or as -1 and -2.
  static constexpr int unwritten = 0xFF, given_back = 0xFE;
  void expose(std::byte* p, std::size_t bytes) const {
#ifdef SP_TEST_ADDRESS_SANITIZER
    ASAN_UNPOISON_MEMORY_REGION(real(p), bytes);
#endif
    std::memset(real(p), unwritten, bytes);
  }
  void scribble(std::byte* p, std::size_t bytes) const {
    std::memset(real(p), given_back, bytes);
#ifdef SP_TEST_ADDRESS_SANITIZER
    ASAN_POISON_MEMORY_REGION(real(p), bytes);
#endif
  }

private:
  // Where nothing else is mapped, and where the lower half of an address is neither an int nor a float that tests compute with: such a
  // number beside padding that happens to hold the upper half of an address is no address, see relocated().
  static constexpr std::uintptr_t first_place = 0x7EA5'E000'0000, next_place = std::uintptr_t(1) << 32,
                                  last_place = 0x7EC0'0000'0000;

  struct block {
    std::byte* data;
    std::size_t bytes;
  };

  elsewhere_region() {
    constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    void* p = MAP_FAILED;
    for (std::uintptr_t at = first_place; p == MAP_FAILED && at < last_place; at += next_place)
      p = ::mmap(reinterpret_cast<void*>(at), 2 * half, PROT_NONE, flags, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<std::byte*>(p);
    if (::mprotect(base_ + half, half, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
#ifdef SP_TEST_ADDRESS_SANITIZER
    ASAN_POISON_MEMORY_REGION(base_ + half, half);
#endif
  }

  std::byte* base_ = nullptr;
  std::mutex mutex_; ///< of what follows
  std::size_t used_ = 0;
  std::vector<block> free_;
};

/// A body as a queue runs it: copied bit by bit, as into the parameters of a kernel, with every address of the library replaced by that
/// of the bytes. Views inside need not know. No number that tests compute with looks like an address of this memory.
template <class Body>
Body relocated(Body const& body) {
  static_assert(std::is_trivially_copyable_v<Body>,
                "a queue runs bodies far from their maker: make it a trivially copyable struct of views and numbers");
  auto bytes = std::bit_cast<std::array<std::byte, sizeof(Body)>>(body);
  for (std::size_t at = 0; at + sizeof(void*) <= sizeof(Body); at += sizeof(void*)) {
    std::byte* p;
    std::memcpy(&p, bytes.data() + at, sizeof p);
    p = elsewhere_region::get().real(p);
    std::memcpy(bytes.data() + at, &p, sizeof p);
  }
  return std::bit_cast<Body>(bytes);
}

} // namespace support
