// What a thread does between two looks at something that will change in a moment.
// The core is told that it waits; it keeps running.
#pragma once

namespace sp::detail {

inline void pause_briefly() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

} // namespace sp::detail
