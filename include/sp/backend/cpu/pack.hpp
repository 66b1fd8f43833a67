// Packing: rows are gathered from their owners, whatever the strides, into dense aligned tiles in the accumulate type.
// Rows that no slice covers and padding become zeros; such rows are never read. All memory of a call is in one struct.
#pragma once

#include <sp/backend/cpu/product.hpp>
#include <sp/backend/cpu/turns.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// Packed rows are padded to whole register tiles, and a bit more: a power of two would use few sets of the first-level cache.
template <class A>
index_t packed_stride(index_t width) {
  constexpr index_t n = micro_columns<A>;
  return round_up(width, n) + 64 / index_t(sizeof(A));
}

/// One head of the given rows as rows of `to`, zero up to the stride. `view_of(tensor)` is an owner's tensor (rows, heads, width).
template <class A, class ViewOf>
void pack_rows(tile_rows const& rows, index_t head, index_t width, ViewOf&& view_of, matrix<A> to) {
  for (index_t i = 0; i < rows.padded; ++i) {
    A* row = to.row(i);
    index_t done = 0;
    if (i < rows.count && rows.covered[std::size_t(i)]) {
      auto const& from = rows.from[std::size_t(i)];
      auto const& v = view_of(from.tensor);
      auto const* x = &v(from.row, head, 0);
      index_t step = v.stride(2);
      if (step == 1)
        for (index_t d = 0; d < width; ++d) row[d] = to_acc(x[d]);
      else
        for (index_t d = 0; d < width; ++d) row[d] = to_acc(x[d * step]);
      done = width;
    }
    std::fill(row + done, row + to.stride, A(0));
  }
}

/// The same rows as columns: panels (width, micro_columns) of consecutive rows, for products that sum over `width`.
template <class A, class ViewOf>
void pack_panels(tile_rows const& rows, index_t head, index_t width, ViewOf&& view_of, A* to) {
  constexpr index_t n = micro_columns<A>;
  for (index_t i = 0; i < rows.padded; ++i) {
    A* column = to + i / n * n * width + i % n;
    if (i < rows.count && rows.covered[std::size_t(i)]) {
      auto const& from = rows.from[std::size_t(i)];
      auto const& v = view_of(from.tensor);
      auto const* x = &v(from.row, head, 0);
      for (index_t d = 0; d < width; ++d) column[d * n] = to_acc(x[d * v.stride(2)]);
    } else {
      for (index_t d = 0; d < width; ++d) column[d * n] = A(0);
    }
  }
}

/// A packed matrix that owns its memory.
template <class A>
struct packed_matrix {
  owned<A, 2> memory;
  packed_matrix(allocator& a, index_t rows, index_t stride) : memory(a, {rows, stride}) {}
  matrix<A> from(index_t row) const { return {memory.tensor.data + row * memory.tensor.stride(0), memory.tensor.stride(0)}; }
};

/// Tiles of scores are as wide as a key tile and a line more.
template <class A>
inline constexpr index_t score_stride = k_tile + 64 / index_t(sizeof(A));

/// What a forward call needs: one kv head packed, and the tiles at hand of every thread.
template <class A>
struct forward_scratch {
  packed_matrix<A> k;          ///< panels, (keys, dim)
  packed_matrix<A> v, q, o, s; ///< (keys, value dim); a query tile each of q, out and scores, thread by thread

  struct tiles {
    matrix<A> q, o, s;
  };
  tiles of(int thread) const {
    index_t const row = thread * q_tile;
    return {q.from(row), o.from(row), s.from(row)};
  }

  forward_scratch(allocator& a, tile_plan const& plan, index_t dim, index_t value_dim, int thread_count)
      : k(a, plan.k.packed_rows, dim), v(a, plan.k.packed_rows, packed_stride<A>(value_dim)),
        q(a, thread_count * q_tile, packed_stride<A>(dim)), o(a, thread_count * q_tile, packed_stride<A>(value_dim)),
        s(a, thread_count * q_tile, score_stride<A>) {}
};

/// What a backward call needs: one kv head and one q head packed, and the tiles at hand of every thread.
template <class A>
struct backward_scratch {
  packed_matrix<A> k_panels, v_panels, k, q, dout; ///< keys as columns, keys as rows, queries
  packed_matrix<A> lse_delta;                      ///< lse and delta of the packed queries
  packed_matrix<A> s, dp, dk, dv;                  ///< tiles, thread by thread
  int buffers;                                     ///< of each thread for dq
  packed_matrix<A> dq;                             ///< as many tiles, thread by thread
  turns order;                                     ///< of what key tiles add to dq

  struct tiles {
    matrix<A> s, dp, dk, dv;
    int thread;
  };
  tiles of(int thread) const {
    index_t const row = thread * q_tile, key = thread * k_tile;
    return {s.from(row), dp.from(row), dk.from(key), dv.from(key), thread};
  }
  matrix<A> dq_of(int thread, int buffer) const { return dq.from((thread * buffers + buffer) * q_tile); }

  backward_scratch(allocator& a, tile_plan const& plan, index_t dim, index_t value_dim, int thread_count)
      : k_panels(a, plan.k.packed_rows, dim), v_panels(a, plan.k.packed_rows, value_dim),
        k(a, plan.k.packed_rows, packed_stride<A>(dim)), q(a, plan.q.packed_rows, packed_stride<A>(dim)),
        dout(a, plan.q.packed_rows, packed_stride<A>(value_dim)), lse_delta(a, 2, plan.q.packed_rows),
        s(a, thread_count * q_tile, score_stride<A>), dp(a, thread_count * q_tile, score_stride<A>),
        dk(a, thread_count * k_tile, packed_stride<A>(dim)), dv(a, thread_count * k_tile, packed_stride<A>(value_dim)),
        buffers(thread_count > 1 ? kept_sums : 1), dq(a, index_t(thread_count) * buffers * q_tile, packed_stride<A>(dim)),
        order(a, thread_count > 1 ? plan.k.tiles.size() : 0) {}
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
