// Numbers that tell things of one process apart: batches, attention objects.
// None is given twice, unlike an address, and 0 is never given.
#pragma once

#include <cstdint>

namespace sp::detail {

inline std::uint64_t new_serial() noexcept {
  static std::uint64_t last = 0;
  return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED); // by builtin: <atomic> costs every header that includes this one
}

} // namespace sp::detail
