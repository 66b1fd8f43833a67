// How much scratch a ring call takes: the very structures of a call are built on an allocator that only counts.
// An upper bound that a fixed workspace can be sized by.
#pragma once

#include <sp/attention/ring/gather.hpp>
#include <sp/attention/ring/pull.hpp>
#include <sp/attention/ring/rotate.hpp>

namespace sp::detail {

template <class T, class Comm, class Backend>
index_t ring_scratch_bytes(Comm const& comm, Backend const& backend, ring_geometry<Backend> const& g, heads on,
                           attention_shape const& s, index_t chunks) {
  using A = accumulate_t<T>;
  index_t own = g.rows_of(g.rank);
  kv_views<T> like{{nullptr, {own, on.kv_count, s.dim}}, {nullptr, {own, on.kv_count, s.value_dim}}};
  view<T, 3> q(nullptr, {g.q_rows, on.q_count, s.dim}), out(nullptr, {g.q_rows, on.q_count, s.value_dim});
  byte_counter c; // the backward pass holds everything the forward pass does, and more
  accumulator<T, 3> dq(c, q), dk(c, {nullptr, like.k.extents}), dv(c, {nullptr, like.v.extents}), o(c, out);
  owned<A, 2> delta(c, {g.q_rows, on.q_count});
  if (g.how == schedule::rotate) rotate_backward_scratch<T, Comm>(comm, c, g.widest(), own, like);
  if (g.how == schedule::gather) {
    auto buffers = gather_buffers<T, Comm>(comm, c, std::span(g.key_rows), on, chunks, like);
    gather_sums<T> sums(c, g.key_rows, g.rank, buffers.widest);
    reduce_scatter_memory<A>(c, sums.mine.tensor.extent(0), g.size);
    owned<parcel, 1>(c, {2 * g.size}); // two gathers in flight
  }
  if (g.how == schedule::pull) pull_backward_scratch<T>(c, g.size);
  index_t kernel = 0; // of a kernel that does not say: none
  auto take = [&](auto const& plan) {
    if constexpr (requires { backend.template scratch_bytes<T>(plan, on, s.dim, s.value_dim); })
      kernel = max(kernel, backend.template scratch_bytes<T>(plan, on, s.dim, s.value_dim));
  };
  for (auto const& plan : g.steps) take(plan);
  if (g.keys) take(*g.keys);
  return c.bytes() + kernel;
}

} // namespace sp::detail
