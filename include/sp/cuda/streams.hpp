// What all handles of one cuda_queue share: the caller's stream, the lane beside it, events, staging and room for partial sums.
// Released when the last handle goes; used by one thread at a time, but for events, which others may hold.
#pragma once

#include <optional>

#include <sp/cuda/events.hpp>
#include <sp/cuda/staging.hpp>

namespace sp::detail {

/// One of the two streams.
struct cuda_side {
  cudaStream_t stream = nullptr;
  std::uint64_t recorded = 0; ///< points
  std::uint64_t seen = 0;     ///< the point of the other side that this one has waited for, outside of captures
  cuda_staging staging{};
};

/// A stream of ours, as early in the device's order as it offers: messages go before kernels that have not begun.
class lane_stream {
public:
  explicit lane_stream(char const* primitive) {
    int least = 0, greatest = 0;
    cuda_check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange", primitive);
    cuda_check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest), "cudaStreamCreateWithPriority",
               primitive);
  }
  lane_stream(lane_stream const&) = delete;
  ~lane_stream() { ignored(cudaStreamDestroy(stream_)); } // work that it was given is still done
  [[nodiscard]] cudaStream_t get() const noexcept { return stream_; }

private:
  cudaStream_t stream_ = nullptr;
};

/// Room for sums of groups of terms, in the order of a stream.
class sum_room {
public:
  static constexpr std::size_t bytes = std::size_t(1) << 18;
  sum_room(cudaStream_t stream, char const* primitive) : stream_(stream) {
    cuda_check(cudaMallocAsync(&data_, bytes, stream), "cudaMallocAsync", primitive);
  }
  sum_room(sum_room const&) = delete;
  /// In a capture the memory stays until the process ends: to free it would become part of the graph, which may use it.
  ~sum_room() {
    auto status = cudaStreamCaptureStatusActive;
    ignored(cudaStreamIsCapturing(stream_, &status));
    if (status == cudaStreamCaptureStatusNone) ignored(cudaFreeAsync(data_, stream_));
  }
  [[nodiscard]] void* data() const noexcept { return data_; }

private:
  cudaStream_t stream_;
  void* data_ = nullptr;
};

class cuda_streams {
public:
  cuda_streams(cudaStream_t stream, int on) : device(on), events(std::make_shared<cuda_event_pool>()) {
    on_device const here(device, primitive);
    if (capture_of(stream, primitive) != 0)
      fail({errc::bad_state, "a queue was made while its stream was being captured", capture_remedy, primitive});
    cuda_check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute",
               primitive);
    owned_.emplace(stream);
    main.stream = stream;
    lane.stream = owned_->lane.get();
    main.staging.take(primitive); // no object uploads on the lane
  }
  cuda_streams(cuda_streams const&) = delete;
  ~cuda_streams() {
    best_effort([&] {
      on_device const here(device, primitive);
      relaxed_capture const relaxed;
      owned_.reset();
    });
  }

  int const device;
  int shared_bytes = 0; ///< that a block of the device may have
  cuda_side main, lane;
  std::shared_ptr<cuda_event_pool> const events;
  /// Room of the main stream.
  [[nodiscard]] void* sums() const noexcept { return owned_->sums.data(); }

private:
  static constexpr char const* primitive = "cuda_queue";
  struct parts {
    lane_stream lane{primitive};
    sum_room sums;
    explicit parts(cudaStream_t stream) : sums(stream, primitive) {}
  };
  std::optional<parts> owned_;
};

} // namespace sp::detail
