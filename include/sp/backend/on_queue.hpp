// sp::on_queue{queue, backend}: a backend that computes on a queue, as on the threads of sp::workers.
// It is the backend in everything else: plans, results, features, and which prepared geometry fits.
#pragma once

#include <sp/backend/concepts.hpp>

namespace sp {

/// An attention_backend made of one that takes a queue, and the queue. The queue's threads outlive the calls, not this object: it holds
/// a copy of the handle.
template <class Queue, class Backend>
class on_queue : public Backend {
  static_assert(
      takes_queue<Backend, float, Queue> || takes_queue<Backend, double, Queue> || takes_queue<Backend, bf16, Queue> ||
          takes_queue<Backend, fp16, Queue>,
      "sp::on_queue: the backend's forward, backward and scratch_bytes take no queue as last argument, or not this one; "
      "sp::cpu takes queues of host memory that hand out tasks (sp::task_queue)");

public:
  constexpr on_queue(Queue queue, Backend backend) : Backend(std::move(backend)), queue_(std::move(queue)) {}

  template <class T>
  typename Backend::saved forward(typename Backend::plan const& p, allocator& scratch, call_params const& n,
                                  view<T const, 3, typename Backend::memory_type> q,
                                  std::span<kv_views<T, typename Backend::memory_type> const> keys,
                                  attention_state<T, typename Backend::memory_type> state) const {
    return Backend::template forward<T>(p, scratch, n, q, keys, state, queue_);
  }
  template <class T>
  void backward(typename Backend::plan const& p, allocator& scratch, call_params const& n,
                std::span<query_grad<T, typename Backend::memory_type> const> queries,
                std::span<key_grad<T, typename Backend::memory_type> const> keys, typename Backend::saved const& x) const {
    Backend::template backward<T>(p, scratch, n, queries, keys, x, queue_);
  }
  template <class T>
  index_t scratch_bytes(typename Backend::plan const& p, heads const& h, index_t dim, index_t value_dim) const {
    return Backend::template scratch_bytes<T>(p, h, dim, value_dim, queue_);
  }

private:
  Queue queue_;
};

/// The queue changes no bit.
template <class Queue, class Backend>
inline constexpr bool equal_by_features<on_queue<Queue, Backend>> = equal_by_features<Backend>;

} // namespace sp
