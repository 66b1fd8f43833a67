// Calls of NCCL with their errors: every result is looked at, and what went wrong is told with NCCL's own words and last error.
// What an older NCCL does not have is left out by the version of its header, and by that of the library that is found at run time.
#pragma once

#include <nccl.h>

#include <string>
#include <utility>

#include <sp/core/error.hpp>

#if !defined(NCCL_VERSION_CODE) || NCCL_VERSION_CODE < 2800
#error "sp: sp::nccl needs NCCL 2.8 or later: its exchanges are groups of ncclSend and ncclRecv"
#endif

namespace sp::detail {

/// As nccl.h numbers versions since 2.9.
constexpr int nccl_version_number(int major, int minor, int patch) {
  return major <= 2 && minor <= 8 ? major * 1000 + minor * 100 + patch : major * 10000 + minor * 100 + patch;
}
constexpr int oldest_nccl = nccl_version_number(2, 8, 0);

/// "2.28.9".
inline std::string nccl_version_text(int number) {
  int const thousands = number < 10000 ? 1000 : 10000;
  return std::to_string(number / thousands) + "." + std::to_string(number % thousands / 100) + "." + std::to_string(number % 100);
}

/// Whether the library found at run time is at least of that version; what its header must have is asked by the preprocessor.
inline bool nccl_has(int version) {
  int found = 0;
  return ncclGetVersion(&found) == ncclSuccess && found >= version;
}

/// A communicator that does not block has taken the call and is still at it.
constexpr bool is_in_progress([[maybe_unused]] ncclResult_t result) noexcept {
#if NCCL_VERSION_CODE >= 21400
  return result == ncclInProgress;
#else
  return false;
#endif
}

/// "ncclSend: invalid usage (5); <last error of NCCL>". NCCL keeps that one for all communicators, and is given none: another thread may be
/// ending it.
inline std::string nccl_text(char const* call, ncclResult_t result) {
  std::string text = std::string(call) + ": " + ncclGetErrorString(result) + " (" + std::to_string(int(result)) + ")";
#if NCCL_VERSION_CODE >= 21300
  if (!is_in_progress(result) && nccl_has(nccl_version_number(2, 13, 0)))
    if (char const* const last = ncclGetLastError(nullptr); last && *last) text += std::string("; ") + last;
#endif
  return text;
}

/// What is done about an error of each kind.
inline char const* nccl_remedy(ncclResult_t result) {
  switch (int(result)) {
  case ncclInvalidArgument:
  case ncclInvalidUsage:
    return "Give sp::nccl a communicator that is alive, on the device of its queue, and keep it until the last handle has gone";
#if NCCL_VERSION_CODE >= 21300
  case ncclRemoteError:
    return "A peer has failed or the network to it: look at its record";
#endif
  default:
    return "NCCL_DEBUG=WARN in the environment tells more";
  }
}

/// A call of NCCL outside of any operation: bad results are thrown as backend_error.
inline void nccl_check(ncclResult_t result, char const* call) {
  if (result == ncclSuccess) return;
  fail({errc::backend_error, nccl_text(call, result), nccl_remedy(result), "sp::nccl"});
}

/// One group of calls: NCCL starts them together when end() is called, and not at all if one of them was refused.
class nccl_calls {
public:
  nccl_calls() {
    note("ncclGroupStart", ncclGroupStart());
    ended_ = first_bad_ != ncclSuccess;
  }
  nccl_calls(nccl_calls const&) = delete;
  ~nccl_calls() {
    if (!ended_) static_cast<void>(ncclGroupEnd()); // an exception is on its way
  }
  /// f() is a call of NCCL; none is made behind one that was refused.
  template <class F>
  void add(char const* call, F&& f) {
    if (first_bad_ == ncclSuccess) note(call, f());
  }
  /// The first bad result, or that of the whole group; `call` says whose.
  ncclResult_t end() noexcept {
    if (!std::exchange(ended_, true)) note("ncclGroupEnd", ncclGroupEnd());
    return first_bad_;
  }
  char const* call() const noexcept { return call_; }
  bool in_progress() const noexcept { return in_progress_; }

private:
  void note(char const* call, ncclResult_t result) noexcept {
    in_progress_ = in_progress_ || is_in_progress(result);
    if (result == ncclSuccess || is_in_progress(result) || first_bad_ != ncclSuccess) return;
    first_bad_ = result;
    call_ = call;
  }
  ncclResult_t first_bad_ = ncclSuccess;
  char const* call_ = nullptr;
  bool ended_ = false, in_progress_ = false;
};

} // namespace sp::detail
