// How much scratch a ring call takes: the very structures of a call are built on an allocator that only counts.
// An upper bound that a fixed workspace can be sized by.
#pragma once

#include <sp/attention/ring/schedules.hpp>

namespace sp::detail {

template <class T, class Comm, class Backend, class Queue>
index_t ring_scratch_bytes(Comm const& comm, Backend const& backend, Queue const& queue, ring_geometry<Backend> const& g,
                           heads on, attention_shape const& s, index_t chunks) {
  using A = accumulate_t<T>;
  using M = typename Queue::memory_type;
  index_t own = g.rows_of(g.rank);
  kv_views<T, M> like{{nullptr, {own, on.kv_count, s.dim}}, {nullptr, {own, on.kv_count, s.value_dim}}};
  view<T, 3, M> q(nullptr, {g.q_rows, on.q_count, s.dim}), out(nullptr, {g.q_rows, on.q_count, s.value_dim});
  basic_byte_counter<M> c; // the backward pass holds everything the forward pass does, and more
  byte_counter lists;      // over host memory they are in scratch too
  context<Queue> ctx(queue, c, c);
  if constexpr (!std::is_same_v<M, host_memory>) ctx.lists = &lists;
  accumulator<T, 3, M> dq(c, q), dk(c, {nullptr, like.k.extents}), dv(c, {nullptr, like.v.extents}), o(c, out);
  owned<A, 2, M> delta(c, {g.q_rows, on.q_count});
  ring_call<Comm, Backend, Queue> const call{comm, backend, g, ctx, {on}, chunks};
  with_schedule(call, [&](auto schedule) { schedule.template take_scratch<T>(call, like); });
  index_t kernel = 0;
  auto take = [&](auto const& plan) { kernel = max(kernel, scratch_on<T>(queue, backend, plan, on, s.dim, s.value_dim)); };
  for (auto const& plan : g.steps) take(plan);
  if (g.keys) take(*g.keys);
  return c.bytes() + kernel;
}

} // namespace sp::detail
