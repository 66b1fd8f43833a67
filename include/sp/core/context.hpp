// The context of a call: the queue that it runs on, where it takes memory from, and the key of its random numbers.
// One per rank; deduced: context(scratch, kept) is for the caller's thread, context(queue, scratch, kept) for any queue.
#pragma once

#include <sp/core/memory.hpp>
#include <sp/core/philox.hpp>
#include <sp/core/queue.hpp>

namespace sp {

namespace detail {
/// Host memory of this thread for calls whose tensors are elsewhere.
inline allocator& lists_of_thread() {
  static thread_local pool lists;
  return lists;
}
} // namespace detail

/// How much room an sp::table of a prepared geometry has, so that refresh() can write larger batches into it. Such tables are integers in the
/// memory of a queue that is not the host's; over host memory there are none, and refresh() takes any batch.
struct table_room {
  double times = 1;  ///< of what the batch that is prepared needs
  index_t least = 0; ///< entries of each table
  /// Entries of a table that now needs n.
  [[nodiscard]] constexpr index_t capacity(index_t n) const {
    return max(least, times > 1 ? max(n, index_t(double(n) * times)) : n);
  }
};

/// Handed to the calls of attention objects and losses, which hand the queue on to kernels. Not shared between threads. Memory of both
/// allocators is of the queue's kind; each belongs to this queue alone.
template <class Queue = inline_queue>
struct context {
  static_assert(sp::queue<Queue>,
                "sp::context: the first of three arguments must be a queue: copyable, with memory_type, "
                "finished_on_return, for_each, sums, copy, upload, record, wait, lane and synchronize; sp::inline_queue "
                "is one. Work of a queue of host memory is finished on return: give work that is done later another memory_type. "
                "Without a queue, give scratch and kept alone.");
  using queue_type = Queue;
  using memory_type = typename Queue::memory_type;
  using allocator_type = basic_allocator<memory_type>;

  [[no_unique_address]] Queue queue;
  allocator_type* scratch; ///< given back when everything that uses it is ordered before the queue's later work
  allocator_type* kept;    ///< what `saved` holds until the backward pass, and `prepared` while it lives
  allocator* lists;        ///< of lists that the host alone reads and writes during a call. Unless set: scratch, or a pool of the
                           ///< calling thread where scratch is no host memory
  random_key random{};
  table_room room{}; ///< read by prepare()

  context(Queue where, allocator_type& scratch_memory, allocator_type& saved_memory, random_key key = {})
      : queue(std::move(where)), scratch(&scratch_memory), kept(&saved_memory), random(key) {
    if constexpr (std::is_same_v<allocator_type, allocator>)
      lists = scratch;
    else
      lists = &detail::lists_of_thread();
  }
  context(allocator_type& scratch_memory, allocator_type& saved_memory,
          random_key key = {}) requires(std::same_as<Queue, inline_queue>)
      : context(Queue{}, scratch_memory, saved_memory, key) {}

  /// The same call with tensors in other memory; lists too, if they were in scratch.
  [[nodiscard]] context with(allocator_type& scratch_memory, allocator_type& saved_memory) const {
    context c = *this;
    c.scratch = &scratch_memory;
    c.kept = &saved_memory;
    if constexpr (std::is_same_v<allocator_type, allocator>)
      if (lists == scratch) c.lists = c.scratch;
    return c;
  }
};
context(allocator&, allocator&, random_key = {})->context<inline_queue>;
template <class Queue, class M>
context(Queue, basic_allocator<M>&, basic_allocator<M>&, random_key = {}) -> context<Queue>;

namespace detail {
/// workspace_too_small unless context.scratch has room for a whole call, which takes up to bytes() of it: in the middle of one it would
/// be too late to try again. Memory that says nothing of its room is not asked for any.
template <class Queue, class Bytes>
void require_room(context<Queue> const& ctx, Bytes const& bytes) {
  std::size_t const room = ctx.scratch->room();
  if (room == ctx.scratch->unknown) return;
  index_t const needed = bytes();
  if (std::size_t(needed) > room)
    fail({errc::workspace_too_small,
          "up to " + std::to_string(needed) + " bytes of scratch are needed, " + std::to_string(room) + " are left",
          "Give context.scratch what scratch_bytes() says for this batch, aligned to allocator::alignment"});
}

/// Stands for the context where something is prepared without one: integers of the host alone.
struct no_context {};
} // namespace detail

} // namespace sp
