// Device memory in the order of a queue: an allocator for contexts, over the driver's stream-ordered pools or the caller's own functions.
// It never synchronises the device, and a block that is given back is not handed out before the queue's earlier work is through with it.
#pragma once

#include <vector>

#include <sp/core/memory.hpp>
#include <sp/cuda/queue.hpp>

namespace sp {

/// Functions of the caller's that give and take device memory in the order of a stream; `owner` is handed to both.
struct device_memory_functions {
  void* owner = nullptr;
  void* (*allocate)(void* owner, std::size_t bytes, cudaStream_t stream) = nullptr; ///< aligned to 64; null when there is none
  void (*deallocate)(void* owner, void* p, std::size_t bytes, cudaStream_t stream) = nullptr;
};

/// Choices of a device_pool of the driver's.
struct device_pool_options {
  bool peers = true; ///< open to every device that can reach this one: each block is mapped there, so that growing takes longer
};

/// Memory for context.scratch or context.kept of one queue; used by its thread. Blocks come back before the pool goes.
///
/// In a capture it gives none (bad_state): the graph would own it. Give captured calls an sp::basic_workspace<sp::device_memory> over a
/// block of scratch_bytes() or saved_bytes(), which lives as long as the graph. A block that comes back during a capture is given back
/// by the next call after it.
/// Errors: backend_error when the device has no memory left.
class device_pool final : public basic_allocator<device_memory> {
public:
  using basic_allocator<device_memory>::alignment;

  /// A pool of the driver's of its own, which keeps what it got.
  explicit device_pool(cuda_queue queue, device_pool_options options = {}) : queue_(std::move(queue)) {
    detail::on_device const here(queue_.device(), primitive);
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location = place(queue_.device());
    detail::cuda_check(cudaMemPoolCreate(&pool_, &properties), "cudaMemPoolCreate", primitive);
    owned_.pool = pool_;
    unsigned long long keep = ~0ull;
    detail::cuda_check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute",
                       primitive);
    if (options.peers) let_peers_in();
  }
  /// The caller's pool, as it is: ranks on several devices need access to each other's.
  device_pool(cuda_queue queue, cudaMemPool_t pool) : queue_(std::move(queue)), pool_(pool) {}
  device_pool(cuda_queue queue, device_memory_functions functions) : queue_(std::move(queue)), functions_(functions) {}
  device_pool(device_pool const&) = delete;
  device_pool& operator=(device_pool const&) = delete;
  ~device_pool() override {
    detail::best_effort([&] { give_back_late_ones(); });
  }

  void* allocate(std::size_t bytes) override {
    detail::on_device const here(queue_.device(), primitive);
    if (detail::capture_of(queue_.stream(), primitive) != 0)
      fail({errc::bad_state, "memory is taken from a device_pool while its stream is being captured",
            "Give captured calls an sp::basic_workspace<sp::device_memory> of scratch_bytes() or saved_bytes() instead",
            primitive});
    give_back_late_ones();
    late_.reserve(late_.size() + out_ + 1); // so that deallocate never has to grow the list
    void* p = nullptr;
    if (functions_.allocate) {
      if (p = functions_.allocate(functions_.owner, bytes, queue_.stream()); !p)
        detail::cuda_failed(cudaErrorMemoryAllocation, "device_memory_functions.allocate", primitive);
    } else {
      detail::cuda_check(cudaMallocFromPoolAsync(&p, bytes, pool_, queue_.stream()), "cudaMallocFromPoolAsync", primitive);
    }
    ++out_;
    return p;
  }
  void deallocate(void* p, std::size_t bytes) noexcept override {
    --out_;
    bool captured = true; // unless it is known: a capture would take the block along
    detail::best_effort([&] {
      detail::on_device const here(queue_.device(), primitive);
      captured = detail::capture_of(queue_.stream(), primitive) != 0;
    });
    captured ? late_.push_back({p, bytes}) : give_back({p, bytes});
  }

private:
  static constexpr char const* primitive = "device_pool";
  struct block {
    void* data;
    std::size_t bytes;
  };
  /// The driver's pool, if it was made here: goes when all that was taken from it has come back.
  struct own_pool {
    cudaMemPool_t pool = nullptr;
    own_pool() = default;
    own_pool(own_pool const&) = delete;
    ~own_pool() {
      if (pool) detail::ignored(cudaMemPoolDestroy(pool));
    }
  };

  static cudaMemLocation place(int device) {
    cudaMemLocation where{};
    where.type = cudaMemLocationTypeDevice;
    where.id = device;
    return where;
  }
  void let_peers_in() {
    int devices = 0;
    detail::cuda_check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount", primitive);
    for (int d = 0; d < devices; ++d) {
      int reaches = 0;
      if (d != queue_.device())
        detail::cuda_check(cudaDeviceCanAccessPeer(&reaches, d, queue_.device()), "cudaDeviceCanAccessPeer", primitive);
      cudaMemAccessDesc access{};
      access.location = place(d);
      access.flags = cudaMemAccessFlagsProtReadWrite;
      if (reaches) detail::cuda_check(cudaMemPoolSetAccess(pool_, &access, 1), "cudaMemPoolSetAccess", primitive);
    }
  }

  void give_back(block const& b) noexcept {
    detail::best_effort([&] {
      detail::on_device const here(queue_.device(), primitive);
      if (functions_.deallocate)
        functions_.deallocate(functions_.owner, b.data, b.bytes, queue_.stream());
      else
        detail::ignored(cudaFreeAsync(b.data, queue_.stream()));
    });
  }
  void give_back_late_ones() noexcept {
    for (block const& b : late_) give_back(b);
    late_.clear();
  }

  cuda_queue queue_;
  own_pool owned_;
  cudaMemPool_t pool_ = nullptr;
  device_memory_functions functions_{};
  std::vector<block> late_; ///< came back while the stream was being captured
  std::size_t out_ = 0;
};

} // namespace sp
