// What is done when a step of an operation throws, so that no operation is left half done: the queue of a rank may throw at any call.
// The first exception goes on, behind a cleanup; those of a cleanup are ignored.
#pragma once

namespace sp::detail {

/// Runs `body`; when it throws, `cleanup` runs before the exception goes on.
template <class Body, class Cleanup>
void try_or(Body&& body, Cleanup&& cleanup) {
  struct guard {
    Cleanup& cleanup;
    bool armed = true;
    ~guard() {
      if (armed) cleanup();
    }
  } g{cleanup};
  body();
  g.armed = false;
}

/// Runs `body` for a family that has ended: there is a cause already.
template <class Body>
void whatever_it_throws(Body&& body) noexcept {
  try {
    body();
  } catch (...) {
  }
}

} // namespace sp::detail
