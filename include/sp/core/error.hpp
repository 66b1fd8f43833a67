// The one error type of sp: a code, where it happened, what was expected and what to do about it.
// Every failure in sp reaches the caller as sp::error; a process that cannot throw installs a handler.
#pragma once

#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>

#include <sp/core/compiler.hpp>
#include <sp/core/observe.hpp>

namespace sp {

/// What went wrong. docs/reliability.md lists the condition behind each code.
enum class errc {
  invalid_shape,
  uneven_partition,
  head_partition,
  bad_mask,
  unsupported_mask,
  unsupported,
  bad_documents,
  size_overflow,
  bad_pointer,
  aliasing,
  workspace_too_small,
  bad_state,
  rank_mismatch,
  short_message,
  timeout,
  peer_failed,
  aborted,
  non_finite,
  backend_error,
};

namespace detail {
inline constexpr int errc_count = static_cast<int>(errc::backend_error) + 1; ///< codes are 0 ... errc_count - 1
}

/// The name of a code as it is written in the sources.
constexpr char const* name(errc code) {
  constexpr char const* names[] = {
      "invalid_shape",       "uneven_partition", "head_partition", "bad_mask",      "unsupported_mask",
      "unsupported",         "bad_documents",    "size_overflow",  "bad_pointer",   "aliasing",
      "workspace_too_small", "bad_state",        "rank_mismatch",  "short_message", "timeout",
      "peer_failed",         "aborted",          "non_finite",     "backend_error"};
  static_assert(sizeof names / sizeof *names == detail::errc_count, "a name for each code");
  return names[static_cast<int>(code)];
}

/// All that is known about a failure. Unknown ranks and steps are -1, unknown texts are empty.
struct error_info {
  errc code = errc::bad_state;
  std::string problem{};   ///< what was found, with the numbers: "12 rows given, the documents hold 10"
  std::string remedy{};    ///< what the caller can do about it
  std::string primitive{}; ///< "ring_attention.forward"
  int rank = -1;
  int size = -1;
  int step = -1;
  int peer = -1;
};

namespace detail {
inline std::string describe(error_info const& e) {
  std::string s = "sp: ";
  s += name(e.code);
  if (!e.primitive.empty()) s += " in " + e.primitive;
  if (e.rank >= 0) s += " on rank " + std::to_string(e.rank) + (e.size >= 0 ? " of " + std::to_string(e.size) : "");
  if (e.step >= 0) s += ", step " + std::to_string(e.step);
  if (e.peer >= 0) s += ", peer " + std::to_string(e.peer);
  if (!e.problem.empty()) s += ": " + e.problem;
  if (!e.remedy.empty()) s += ". " + e.remedy;
  return s;
}
} // namespace detail

/// Thrown by everything in sp. `what()` is one line that names code, primitive, rank, problem and remedy.
class error : public std::runtime_error {
public:
  explicit error(error_info info) : std::runtime_error(detail::describe(info)), info_(std::move(info)) {}
  errc code() const noexcept { return info_.code; }
  error_info const& info() const noexcept { return info_; }

private:
  error_info info_;
};

/// Called instead of throwing, for programs built without exceptions or that must end their own way. It must not return.
using error_handler = void (*)(error_info const&);

namespace detail {
inline error_handler handler = nullptr; // atomic by builtins: <atomic> would double the cost of this header
}

/// Installs `h` for the whole process and returns the one before; nullptr means throw. Beside the settings of diagnosis this is
/// the only process-wide setting of sp.
inline error_handler set_error_handler(error_handler h) noexcept {
  return __atomic_exchange_n(&detail::handler, h, __ATOMIC_ACQ_REL);
}

/// Where a public call stands; errors that come from below it and do not know leave with this primitive and rank.
struct site {
  char const* object = ""; ///< "ring_attention"
  char const* call = "";   ///< ".forward"
  int rank = -1;
  int size = -1;
};

namespace detail {
inline thread_local site const* current_site = nullptr; // innermost call of this thread that said where it stands

class site_scope {
public:
  explicit site_scope(site const& s) : before_(current_site), observer_(__atomic_load_n(&observer, __ATOMIC_RELAXED)) {
    current_site = &s;
    if (observer_) {
      unwinding_ = std::uncaught_exceptions();
      entry_ = observer_->entered(s);
    }
  }
  site_scope(site_scope const&) = delete;
  site_scope& operator=(site_scope const&) = delete;
  ~site_scope() {
    if (observer_) observer_->left(*current_site, entry_, std::uncaught_exceptions() > unwinding_);
    current_site = before_;
  }

private:
  site const* before_;
  call_observer const* observer_;
  std::uint64_t entry_ = 0;
  int unwinding_ = 0;
};
} // namespace detail

/// Reports a failure: calls the handler if one is set, throws sp::error otherwise.
[[noreturn]] inline void fail(error_info info) {
  if (site const* s = detail::current_site) {
    if (info.primitive.empty()) info.primitive = std::string(s->object) + s->call;
    if (info.rank < 0) {
      info.rank = s->rank;
      info.size = s->size;
    }
  }
  if (error_handler h = __atomic_load_n(&detail::handler, __ATOMIC_ACQUIRE)) {
    h(info);
    std::abort(); // a handler that returns would let wrong numbers through
  }
#if defined(__cpp_exceptions)
  throw error(std::move(info));
#else
  std::abort();
#endif
}

namespace detail {
/// Runs `body` for what is done beside the work: what it throws (no memory, above all) is dropped. False then.
template <class Body>
bool best_effort(Body&& body) noexcept {
#if defined(__cpp_exceptions)
  try {
    body();
  } catch (...) {
    return false;
  }
#else
  body();
#endif
  return true;
}
} // namespace detail

/// Runs `body` as the call `s`: a failure in it that names no primitive or rank gets those of `s`.
template <class F>
decltype(auto) located(site const& s, F&& body) {
  detail::site_scope scope(s);
  return body();
}

} // namespace sp
