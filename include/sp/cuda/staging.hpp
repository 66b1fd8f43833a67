// Pinned host memory that bytes on their way to a device wait in, so that the caller's may change as soon as upload() returns.
// Two halves take turns: one is written again only when the device has read what was in it.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

#include <sp/core/index.hpp>
#include <sp/cuda/capture.hpp>

namespace sp::detail {

/// Of one stream; the device is current in every call. To take pinned memory may make the device idle: take() it before anything waits there.
/// Other threads may capture meanwhile. One upload of more than both halves, or many that the device has not come to, wait for the device.
class cuda_staging {
public:
  static constexpr std::size_t half_bytes = std::size_t(1) << 20;

  cuda_staging() = default;
  cuda_staging(cuda_staging const&) = delete;
  ~cuda_staging() {
    relaxed_capture const relaxed;
    for (half& h : halves_) {
      if (h.used > 0) ignored(cudaEventSynchronize(h.read));
      if (h.read) ignored(cudaEventDestroy(h.read));
    }
    if (memory_) ignored(cudaFreeHost(memory_));
  }

  void take(char const* primitive) {
    relaxed_capture const relaxed;
    for (half& h : halves_)
      if (!h.read) cuda_check(cudaEventCreateWithFlags(&h.read, cudaEventDisableTiming), "cudaEventCreateWithFlags", primitive);
    void* p = nullptr;
    cuda_check(cudaHostAlloc(&p, 2 * half_bytes, cudaHostAllocPortable), "cudaHostAlloc", primitive);
    memory_ = static_cast<std::byte*>(p);
  }

  void upload(cudaStream_t stream, std::byte* to, std::span<std::byte const> bytes) {
    if (!memory_) take(upload_name);
    while (!bytes.empty()) {
      if (halves_[now_].used == half_bytes) turn();
      half& h = halves_[now_];
      std::size_t const n = bytes.size() < half_bytes - h.used ? bytes.size() : half_bytes - h.used;
      std::byte* const here = memory_ + std::size_t(now_) * half_bytes + h.used;
      std::memcpy(here, bytes.data(), n);
      cuda_check(cudaMemcpyAsync(to, here, n, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync", upload_name);
      h.used = round_up(h.used + n, 64); // 64 divides the half
      cuda_check(cudaEventRecord(h.read, stream), "cudaEventRecord", upload_name);
      to += n;
      bytes = bytes.subspan(n);
    }
  }

private:
  static constexpr char const* upload_name = "cuda_queue.upload";
  struct half {
    cudaEvent_t read = nullptr; ///< behind the last copy out of it
    std::size_t used = 0;
  };

  /// On to the other half, once it has been read.
  void turn() {
    relaxed_capture const relaxed;
    half& next = halves_[1 - now_];
    if (next.used > 0) cuda_check(cudaEventSynchronize(next.read), "cudaEventSynchronize", upload_name);
    next.used = 0;
    now_ = 1 - now_;
  }

  std::byte* memory_ = nullptr;
  half halves_[2];
  int now_ = 0;
};

} // namespace sp::detail
