// sp::workers_ref{pool}: a queue on threads of the caller's own, as OpenMP's or those of a trainer's thread pool.
// The pool is borrowed; which of its threads does what, and how many come, changes no bit.
#pragma once

#include <concepts>

#include <sp/core/workers/host_queue.hpp>

namespace sp {

namespace detail {
struct any_call {
  void operator()(index_t) const;
};
} // namespace detail

/// Threads that somebody else owns.
///
///     threads()           how many calls of one parallel() may run at the same time
///     parallel(n, call)   call(0) ... call(n - 1), each once, at the same time where it can; returns when all have returned
///
/// n <= threads(). A call never throws, may be copied, and must have ended before parallel() returns or throws. Several ranks may enter
/// parallel() at the same time if they share the pool.
template <class Pool>
concept thread_pool_like = requires(Pool& pool, detail::any_call const& call) {
  { pool.threads() } -> std::convertible_to<int>;
  pool.parallel(index_t{}, call);
};

/// A task_queue on a pool of threads that outlives it. Copies are the same queue.
template <class Pool>
class workers_ref : public detail::host_queue<workers_ref<Pool>> {
  static_assert(thread_pool_like<Pool>,
                "sp::workers_ref: the pool needs `int threads()` and `parallel(n, call)`, which runs call(i) for "
                "every i < n and returns when all have returned");

public:
  /// bad_state if the pool has no thread.
  explicit workers_ref(Pool& pool) : pool_(&pool), threads_(int(pool.threads())) {
    if (threads_ < 1)
      fail({errc::bad_state, "the thread pool offers " + std::to_string(threads_) + " threads", "It needs one at least"});
  }

  [[nodiscard]] int threads() const noexcept { return threads_; }

private:
  friend detail::host_queue<workers_ref>;
  template <class Call>
  void run(int n, Call const& call) const {
    pool_->parallel(index_t{n}, call);
  }

  Pool* pool_;
  int threads_;
};

} // namespace sp
