// The clock of diagnosis: a counter that is cheaper to read than any clock, and how its ticks become times.
// Ticks of one process never run backwards across its threads; conversion is exact at the moment of a reading.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>
#include <thread>

namespace sp::detail {

/// The processor's own counter where it has one that runs evenly, else the steady clock.
inline std::int64_t ticks() noexcept {
#if defined(__x86_64__)
  return std::int64_t(__builtin_ia32_rdtsc());
#elif defined(__aarch64__)
  std::int64_t t;
  asm volatile("mrs %0, cntvct_el0" : "=r"(t));
  return t;
#else
  return std::chrono::steady_clock::now().time_since_epoch().count();
#endif
}

/// The same moment on three clocks.
struct clock_reading {
  std::int64_t ticks = 0, steady = 0, wall = 0; ///< the last two in ns
  /// The tightest of a few attempts: a thread may lose its core between two clocks, and rates are made of short distances.
  static clock_reading now() {
    using namespace std::chrono;
    clock_reading best;
    std::int64_t tightest = std::numeric_limits<std::int64_t>::max();
    for (int attempt = 0; attempt < 5; ++attempt) {
      clock_reading r;
      r.ticks = detail::ticks();
      r.steady = duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
      r.wall = duration_cast<nanoseconds>(system_clock::now().time_since_epoch()).count();
      std::int64_t const taken = detail::ticks() - r.ticks;
      if (taken < tightest) tightest = taken, best = r;
    }
    return best;
  }
};

inline clock_reading const process_start = clock_reading::now();

/// A reading that is far enough from the start of the process to tell how long a tick is.
inline clock_reading later_reading() {
  for (;;) {
    clock_reading const r = clock_reading::now();
    if (r.steady - process_start.steady >= 2'000'000 && r.ticks != process_start.ticks) return r;
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
}

inline double ns_per_tick(clock_reading const& r) {
  return double(r.steady - process_start.steady) / double(r.ticks - process_start.ticks);
}

/// Wall time in ns of ticks near the reading `r`.
inline std::int64_t wall_time(std::int64_t ticks, clock_reading const& r) {
  return r.wall - std::int64_t(double(r.ticks - ticks) * ns_per_tick(r));
}

/// Microseconds since the start of the process at a rate that is fixed at the first use, so that events nest as they happened.
/// The rate is off by some 1e-5; traces carry readings by which the merge tool corrects it.
inline double trace_time(std::int64_t ticks) {
  static double const rate = ns_per_tick(later_reading()) / 1000;
  return double(ticks - process_start.ticks) * rate;
}

} // namespace sp::detail
