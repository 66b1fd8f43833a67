// What the CUDA runtime reports becomes sp::error: the call, the name and meaning of its code, where it happened and what to do.
// Also the guard that makes a device current for a call and puts the caller's back.
#pragma once

#include <cuda_runtime_api.h>

#include <sp/core/error.hpp>

namespace sp::detail {

/// What the caller of sp can do about a code of the runtime.
inline char const* cuda_remedy(cudaError_t code) {
  switch (code) {
  case cudaErrorMemoryAllocation:
    return "Free device memory or ask for less: scratch_bytes() and saved_bytes() tell what a call needs";
  case cudaErrorInvalidResourceHandle:
    return "Keep the stream alive as long as the queue, and name the device that it belongs to: sp::cuda_queue(stream, device)";
  case cudaErrorInvalidDevice:
  case cudaErrorNoDevice:
  case cudaErrorInsufficientDriver:
    return "Run on a machine with the device that the queue names, and a driver as new as the CUDA runtime";
  case cudaErrorNoKernelImageForDevice:
  case cudaErrorUnsupportedPtxVersion:
    return "Compile for this device, for example with nvcc -arch=native";
  case cudaErrorInvalidConfiguration:
  case cudaErrorLaunchOutOfResources:
    return "The device has less than the kernel takes (shared memory, registers, threads): "
           "choose a configuration of smaller tiles";
  case cudaErrorInvalidValue:
    return "Check that all tensors of the call lie on the queue's device, or on one that it has peer access to";
  default:
    return "Unless the call itself is at fault, work given earlier has failed: compute-sanitizer, or CUDA_LAUNCH_BLOCKING=1, "
           "names the kernel. If every later call fails too, the process must end";
  }
}
/// Codes that say that a stream is being captured, or was.
constexpr bool is_of_capture(cudaError_t code) {
  return code >= cudaErrorStreamCaptureUnsupported && code <= cudaErrorStreamCaptureWrongThread;
}
inline constexpr char const* capture_remedy =
    "Prepare, and run each call once, before cudaStreamBeginCapture: what allocates, uploads or waits cannot be captured";

/// backend_error, or bad_state for what a capture does not allow. `call`: of the runtime, or of the caller's; `primitive`: ours. What the
/// runtime keeps for cudaGetLastError() stays: it may be about work of the caller's.
[[noreturn, gnu::noinline, gnu::cold]] inline void cuda_failed(cudaError_t code, char const* call, char const* primitive) {
  bool const capture = is_of_capture(code);
  fail({capture ? errc::bad_state : errc::backend_error,
        std::string(call) + ": " + cudaGetErrorName(code) + " (" + cudaGetErrorString(code) + ")",
        capture ? capture_remedy : cuda_remedy(code), primitive});
}
/// For what the caller does not hear of: calls that free and put back. Either all is well without them, or work given earlier has failed,
/// which later calls say too. The caller's next cudaGetLastError() is about the caller's work.
inline void ignored(cudaError_t code) noexcept {
  if (code != cudaSuccess) static_cast<void>(cudaGetLastError());
}
inline void cuda_check(cudaError_t code, char const* call, char const* primitive) {
  if (code == cudaSuccess) return;
  ignored(code); // told here
  cuda_failed(code, call, primitive);
}

/// Makes a device the thread's current one while it lives.
class on_device {
public:
  on_device(int device, char const* primitive) : device_(device) {
    cuda_check(cudaGetDevice(&before_), "cudaGetDevice", primitive);
    if (before_ != device_) cuda_check(cudaSetDevice(device_), "cudaSetDevice", primitive);
  }
  on_device(on_device const&) = delete;
  ~on_device() {
    if (before_ != device_) ignored(cudaSetDevice(before_));
  }

private:
  int device_, before_ = 0;
};

/// The number of the capture that a stream is part of; 0: none.
inline unsigned long long capture_of(cudaStream_t stream, char const* primitive) {
  auto status = cudaStreamCaptureStatusNone;
  unsigned long long number = 0;
  cuda_check(cudaStreamGetCaptureInfo(stream, &status, &number), "cudaStreamGetCaptureInfo", primitive);
  if (status == cudaStreamCaptureStatusInvalidated)
    cuda_failed(cudaErrorStreamCaptureInvalidated, "cudaStreamGetCaptureInfo", primitive);
  return status == cudaStreamCaptureStatusActive ? number : 0;
}

} // namespace sp::detail
