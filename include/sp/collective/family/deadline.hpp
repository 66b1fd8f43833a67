// Deadlines and polls of waits for a peer: which numbers are accepted, and how the error begins when a wait took longer.
// The same for every transport; how it waits is its own affair.
#pragma once

#include <chrono>
#include <string>

#include <sp/core/error.hpp>

namespace sp::detail {

/// Refuses a deadline that nobody can mean; a year still fits the clocks.
inline void check_deadline(std::chrono::milliseconds deadline) {
  constexpr std::chrono::milliseconds longest = std::chrono::hours(24 * 365);
  if (deadline <= deadline.zero() || deadline > longest)
    fail({errc::bad_state, "a deadline of " + std::to_string(deadline.count()) + " ms was asked for",
          "Give more than 0 and at most " + std::to_string(longest.count()) + " ms, a year"});
}

/// Refuses a number of polls that nobody can mean. A wait looks at its deadline while it polls, so there may be many.
inline void check_spin(int spin) {
  constexpr int most = 1'000'000'000;
  if (spin < 0 || spin > most)
    fail({errc::bad_state, std::to_string(spin) + " polls were asked for (spin)", "Give 0 to " + std::to_string(most)});
}

inline std::string no_answer_within(std::chrono::milliseconds deadline) {
  return "no answer within " + std::to_string(deadline.count()) + " ms";
}

} // namespace sp::detail
