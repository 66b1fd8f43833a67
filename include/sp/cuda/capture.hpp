// Captures of streams: the order of calls that several threads add to one graph by, and the mode in which a thread disturbs none.
// Where nothing is captured a call asks its stream for that, and waits for nobody.
#pragma once

#include <mutex>

#include <sp/cuda/error.hpp>

namespace sp::detail {

/// A turn among the calls that add to graphs under capture, while it lives. CUDA does not synchronise graphs: "API calls accessing the same
/// graph object must be serialized externally" (CUDA Driver API, Graph object thread safety), and ranks that are threads are captured into
/// one. Turns are those of the process: captures are rare, and a stream's first call in one does not know yet which it joins.
class [[nodiscard]] capture_turn {
public:
  /// For a call that gives the stream work; `joins`: the capture that it will be part of then, 0: none.
  capture_turn(cudaStream_t stream, char const* primitive, unsigned long long joins = 0)
      : number_(capture_of(stream, primitive)) {
    if ((number_ | joins) != 0) mine_ = std::unique_lock(of_all());
  }
  /// The capture that the stream is part of; 0: none.
  [[nodiscard]] unsigned long long number() const noexcept { return number_; }

private:
  /// Recursive: a copy is several launches, and the caller may hold a turn as well.
  static std::recursive_mutex& of_all() {
    static std::recursive_mutex the;
    return the;
  }
  unsigned long long number_;
  std::unique_lock<std::recursive_mutex> mine_;
};

/// While it lives this thread may take pinned memory and ask events although another one captures in the global mode.
class relaxed_capture {
public:
  relaxed_capture() noexcept { ignored(cudaThreadExchangeStreamCaptureMode(&mode_)); }
  relaxed_capture(relaxed_capture const&) = delete;
  ~relaxed_capture() { ignored(cudaThreadExchangeStreamCaptureMode(&mode_)); }

private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

} // namespace sp::detail
