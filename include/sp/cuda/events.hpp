// Events of a queue, used again when nobody holds them any more: recording one allocates nothing once there are enough.
// A handle may outlive its queue, and be held by other threads.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <sp/cuda/error.hpp>

namespace sp::detail {

/// What is known about a point of a stream.
struct cuda_point {
  cudaEvent_t event = nullptr;
  bool of_lane = false;           ///< which of the queue's streams recorded it
  std::uint64_t number = 0;       ///< of the points of that stream
  unsigned long long capture = 0; ///< in which it was recorded; 0: none
};

class cuda_event_pool {
public:
  struct node : cuda_point {
    std::atomic<int> holders{0};
  };

  cuda_event_pool() = default;
  cuda_event_pool(cuda_event_pool const&) = delete;
  ~cuda_event_pool() {
    for (auto const& n : all_)
      if (n->event) ignored(cudaEventDestroy(n->event));
  }

  /// One that nobody holds, of the device that is current: always the same.
  node* take() {
    std::lock_guard const lock(mutex_);
    if (free_.empty()) {
      free_.reserve(all_.size() + 1); // so that give() never has to grow the list
      all_.push_back(std::make_unique<node>());
      free_.push_back(all_.back().get());
    }
    node* const n = free_.back();
    if (!n->event)
      cuda_check(cudaEventCreateWithFlags(&n->event, cudaEventDisableTiming), "cudaEventCreateWithFlags", "cuda_queue.record");
    free_.pop_back();
    return n;
  }
  void give(node* n) noexcept {
    std::lock_guard const lock(mutex_);
    free_.push_back(n);
  }

private:
  std::mutex mutex_; ///< of what follows
  std::vector<std::unique_ptr<node>> all_;
  std::vector<node*> free_;
};

/// A point behind all work that a cuda_queue had been given. Without a queue: reached. Waiting for it is an order of streams, see
/// cuda_queue::wait; a copy is the same point.
class cuda_event {
public:
  cuda_event() = default;
  /// Takes a node of the pool over.
  cuda_event(std::shared_ptr<cuda_event_pool> pool, cuda_event_pool::node* node) : pool_(std::move(pool)), node_(node) { hold(); }
  cuda_event(cuda_event const& o) : pool_(o.pool_), node_(o.node_) { hold(); }
  cuda_event(cuda_event&& o) noexcept : pool_(std::move(o.pool_)), node_(std::exchange(o.node_, nullptr)) {}
  cuda_event& operator=(cuda_event o) noexcept {
    std::swap(pool_, o.pool_);
    std::swap(node_, o.node_);
    return *this;
  }
  ~cuda_event() {
    if (node_ && node_->holders.fetch_sub(1, std::memory_order_acq_rel) == 1) pool_->give(node_);
  }

  /// Null without a queue.
  [[nodiscard]] cuda_point const* point() const noexcept { return node_; }
  /// Whether the pool's queue recorded it.
  [[nodiscard]] bool is_of(std::shared_ptr<cuda_event_pool> const& pool) const noexcept { return pool_ == pool; }

private:
  void hold() noexcept {
    if (node_) node_->holders.fetch_add(1, std::memory_order_relaxed);
  }
  std::shared_ptr<cuda_event_pool> pool_;
  cuda_event_pool::node* node_ = nullptr;
};

} // namespace sp::detail
