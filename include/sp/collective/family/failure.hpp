// Why a family (all groups split from one communicator) has ended: the failure that ranks report, and which of several counts.
// The first failure is the cause; what comes later is its consequence and changes nothing, except to complete it.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include <sp/core/error.hpp>

namespace sp::detail {

/// What one rank reports. Ranks of the world are those of the root, from which all groups of the family were split.
struct failure {
  static constexpr int every_group = -2;

  error_info info{};        ///< as the rank that found it reports it
  std::string why{};        ///< for the messages of all others; empty means describe(info)
  int world = -1;           ///< the rank of the world that failed
  int group = -1;           ///< the group where `one` and `other` throw info.code themselves; everybody else throws `aborted`
  int one = -1, other = -1; ///< ranks of the world
  bool provisional = false; ///< a token died while an exception was on its way: what was thrown is not known yet
  bool unreported = false;  ///< found in a destructor: no operation of the rank that caused it has thrown
  std::exception_ptr thrown = {}; ///< the exception itself, where this process has it

  bool concerns(int group_number, int world_rank) const noexcept {
    return (group == group_number || group == every_group) && (one == world_rank || other == world_rank);
  }
};

/// Runs `body` in the name of a rank of the world. What leaves it is reported as the failure of that rank, and returned.
template <class Body, class Report>
[[nodiscard]] std::exception_ptr run_in_name_of(int world, Body&& body, Report&& report) {
#if defined(__cpp_exceptions)
  auto caught = [&](error_info const* info, char const* why) {
    failure f;
    f.world = world;
    f.thrown = std::current_exception();
    best_effort([&] { f.why = why; });
    if (info) best_effort([&] { f.info = *info; });
    report(std::move(f));
    return std::current_exception();
  };
  try {
    body();
  } catch (error const& e) {
    return caught(&e.info(), e.what());
  } catch (std::exception const& e) {
    return caught(nullptr, e.what());
  } catch (...) {
    return caught(nullptr, "an exception of unknown type");
  }
#else
  static_cast<void>(world), static_cast<void>(report);
  body();
#endif
  return nullptr;
}

/// A failure for a destructor of rank `world`: what `make` gives, or, if there is no memory for that, `fallback`, 15 characters at
/// most, which need none.
template <class Make>
[[nodiscard]] failure failure_in_destructor(int world, char const* fallback, Make&& make) noexcept {
  failure f;
  best_effort([&] { f = make(); });
  if (f.why.empty() && f.info.problem.empty()) f.info.problem = fallback;
  f.world = world;
  f.unreported = true;
  return f;
}

/// The failure that ended a family, if one has. Not thread-safe: the family locks where it must.
class cause_of_end {
public:
  enum class change { none, first, completed };

  bool known() const noexcept { return known_; }
  failure const& get() const noexcept { return cause_; }

  /// `completed`: the exception that destroyed a token has arrived at the rank that reported the token. `aborted` never is a
  /// cause of its own there, for it is what the rank throws because of the token.
  change add(failure f) noexcept {
    if (f.why.empty()) best_effort([&] { f.why = describe(f.info); });
    if (!known_) {
      cause_ = std::move(f);
      known_ = true;
      return change::first;
    }
    if (!cause_.provisional || f.provisional || f.world != cause_.world || f.info.code == errc::aborted) return change::none;
    cause_.thrown = std::move(f.thrown);
    cause_.why = std::move(f.why);
    cause_.provisional = false;
    return change::completed;
  }

private:
  bool known_ = false;
  failure cause_{};
};

} // namespace sp::detail
