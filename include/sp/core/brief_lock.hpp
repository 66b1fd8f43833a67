// A lock that is held for moments, such as a few steps of a list.
// A child that forks while another thread holds one does not use what it guards before exec.
#pragma once

#include <ctime>

namespace sp::detail {

/// Holds `locked`. Whoever finds it held goes to sleep for a moment, so that the holder can go on.
class brief_lock {
public:
  explicit brief_lock(bool& locked) noexcept : locked_(locked) {
    timespec const moment{0, 1000};
    while (__atomic_test_and_set(&locked_, __ATOMIC_ACQUIRE)) nanosleep(&moment, nullptr);
  }
  brief_lock(brief_lock const&) = delete;
  brief_lock& operator=(brief_lock const&) = delete;
  ~brief_lock() { __atomic_clear(&locked_, __ATOMIC_RELEASE); }

private:
  bool& locked_;
};

} // namespace sp::detail
