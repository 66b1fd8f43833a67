// What the backward passes of cuda_flash share, and the pass for dq: a block has a tile of queries of one head and meets its tiles of keys.
// Each row of dq is added to once, after a sum in the order of keys: the same bits whenever it runs.
#pragma once

#include <sp/backend/cuda/flash_forward.hpp>

namespace sp::detail {

/// The query side of a tensor.
template <class T>
struct flash_query_grad {
  flash_rows<T const> q, dout;        // (rows, q heads, dim), (rows, q heads, value dim)
  flash_rows<float const> lse, delta; // (rows, q heads)
  flash_rows<float> dq;               // as q; null: not wanted
};
/// The key side.
template <class T>
struct flash_key_grad {
  flash_rows<T const> k, v; // (rows, kv heads, dim), (rows, kv heads, value dim)
  flash_rows<float> dk, dv; // the same; null: not wanted
};

/// The arguments of the backward passes.
template <class T, class... Features>
struct flash_gradients {
  using element = T;
  using features_type = flash_features<Features...>;

  flash_lists lists;
  sp::heads heads;
  int dim = 0, value_dim = 0;
  features_type features;
  flash_query_grad<T> queries[flash_tensors]{};
  flash_key_grad<T> keys[flash_tensors]{};
};

/// Adds a thread's part of rows of sums, times `factor`, to columns [column, ...) of a row in memory, as far as `width` goes.
template <int N>
SP_DEVICE void add_row(flash_tile_of_sums<1, N> const& sums, int eight, int lane, float factor, float* row, int column,
                       int width) {
  SP_UNROLL
  for (int n = 0; n < N; ++n) {
    int const at = column + 8 * n + 2 * (lane % 4);
    if (at >= width) continue;
    two_floats& to = *reinterpret_cast<two_floats*>(row + at);
    two_floats const was = to;
    to = {was.of[0] + factor * sums.x[0][n][2 * eight], was.of[1] + factor * sums.x[0][n][2 * eight + 1]};
  }
}

template <class T, int D, flash_shape Shape, class... Features>
struct flash_backward_queries : flash_gradients<T, Features...> {
  static constexpr int rows = Shape.backward_rows, columns = Shape.keys, width = D;
  static constexpr int warps = rows / 16, threads = 32 * warps;
  static constexpr int blocks_per_processor = D <= 128 ? 2 : 1;
  static_assert(rows % 16 == 0 && columns % 16 == 0);

  // shared memory: queries, dout, keys, values, places of queries and of two tiles of keys
  using matrix = flash_matrix<T, D>;
  static constexpr index_t dout_at = matrix::bytes(rows), k_at = 2 * dout_at, v_at = k_at + matrix::bytes(columns);
  static constexpr index_t q_places_at = v_at + matrix::bytes(columns), k_places_at = q_places_at + flash_places::bytes(rows);
  static constexpr index_t shared_bytes = k_places_at + 2 * flash_places::bytes(columns);

  template <class Block>
  SP_DEVICE void operator()(Block& b) const;
};

/// One block of it, as a thread has it.
template <class Block, class Kernel>
struct flash_queries_block {
  using matrix = typename Kernel::matrix;
  using features_type = typename Kernel::features_type;
  using mod = typename features_type::mod;
  static constexpr int columns = Kernel::columns, width = Kernel::width, at_once = flash_at_once(columns);

  Block& b;
  Kernel const& kernel;
  flash_item item;
  int head, kv_head;
  matrix q, dout, k, v;
  flash_places q_places;
  mod modify;
  float lse[2], delta[2]; // of this thread's rows
  flash_tile_of_sums<1, at_once / 8> scores, grads;
  flash_tile_of_sums<1, width / 8> dq;

  SP_DEVICE flash_queries_block(Block& block, Kernel const& of, flash_item const& work, int q_head)
      : b(block), kernel(of), item(work), head(q_head), kv_head(int(of.heads.kv_of(q_head))),
        q{b.template shared<typename Kernel::element>(0)}, dout{b.template shared<typename Kernel::element>(Kernel::dout_at)},
        k{b.template shared<typename Kernel::element>(Kernel::k_at)}, v{b.template shared<typename Kernel::element>(
                                                                          Kernel::v_at)},
        q_places(flash_places::at(b, Kernel::q_places_at, Kernel::rows)),
        modify(of.features.of(of.heads.q_head(q_head), of.lists.row_tile(work.tile))) {}

  SP_DEVICE void run() {
    flash_cursor const at(kernel.lists, item);
    begin(at);
    dq.clear();
    meet_columns(b, *this, at);
    store();
  }

  // ---- for meet_columns

  using cursor = flash_cursor;
  static constexpr bool meets = false;
  SP_DEVICE bool more(flash_cursor const& at) const { return at.more(item); }
  SP_DEVICE flash_cursor next(flash_cursor at) const {
    at.next(kernel.lists, item);
    return at;
  }
  SP_DEVICE void find(flash_cursor const& at, int slot) {
    flash_tile const& t = kernel.lists.column_tile(at.tile);
    flash_places const to = k_places(slot);
    for (int i = b.thread(); i < columns; i += b.threads()) to.set(i, place_of(kernel.lists.column_segments(t), t, i));
  }
  SP_DEVICE void copy(flash_cursor const&, int slot, int first) {
    k.copy(
        b, first, at_once, k_places(slot), kernel.dim, kv_head, [&](int n) -> auto const& { return kernel.keys[n].k; });
    v.copy(
        b, first, at_once, k_places(slot), kernel.value_dim, kv_head, [&](int n) -> auto const& { return kernel.keys[n].v; });
    b.copy_async_commit();
  }
  /// Keys [first, first + at_once) of a tile: adds to dq.
  SP_DEVICE void compute(flash_cursor const& at, int slot, int first) {
    flash_range const range = kernel.lists.range(at.range);
    scores.clear();
    scores.add_rows_by_rows(b, q, 16 * b.warp(), k, first);
    grads.clear();
    grads.add_rows_by_rows(b, dout, 16 * b.warp(), v, first);
    score_gradients(range, k_places(slot).offset + first);
    dq.add_product(b, grads, k, first, 0);
  }
  SP_DEVICE void finish(flash_cursor const&, int) {}

private:
  SP_DEVICE flash_places k_places(int slot) const {
    return flash_places::at(b, Kernel::k_places_at + slot * flash_places::bytes(columns), columns);
  }
  SP_DEVICE void begin(flash_cursor const& at) {
    flash_tile const& t = kernel.lists.row_tile(item.tile);
    for (int i = b.thread(); i < Kernel::rows; i += b.threads()) q_places.set(i, place_of(kernel.lists.row_segments(t), t, i));
    find(at, 0);
    b.barrier();
    q.copy(
        b, 0, Kernel::rows, q_places, kernel.dim, head, [&](int n) -> auto const& { return kernel.queries[n].q; });
    dout.copy(
        b, 0, Kernel::rows, q_places, kernel.value_dim, head, [&](int n) -> auto const& { return kernel.queries[n].dout; });
    copy(at, 0, 0);
    SP_UNROLL
    for (int h = 0; h < 2; ++h) {
      flash_place const p = place(h);
      float const natural = p.tensor < 0 ? minus_infinity<float> : *kernel.queries[p.tensor].lse.at(p.row, head);
      lse[h] = flash_lse(natural);
      delta[h] = is_minus_infinity(natural) ? 0.0f : *kernel.queries[p.tensor].delta.at(p.row, head);
    }
  }
  SP_DEVICE flash_place place(int eight) const { return q_places[16 * b.warp() + 8 * eight + b.lane() / 4]; }

  /// `offset` is by column of the scores.
  SP_DEVICE void score_gradients(flash_range const& range, int const* offset) {
    SP_UNROLL
    for (int h = 0; h < 2; ++h) {
      int const row = place(h).offset;
      mod const here = modify; // apart from the sums, which are to stay in registers
      auto factor = here.dropout_of_row(row);
      SP_UNROLL
      for (int n = 0; n < at_once / 8; ++n) {
        SP_UNROLL
        for (int c = 0; c < 2; ++c) {
          int const key = mod::biased || mod::drops ? offset[8 * n + 2 * (b.lane() % 4) + c] : 0;
          float keep = 1;
          if constexpr (mod::drops) keep = factor(key);
          probability_and_gradient(b, kernel.features, modify, scores.x[0][n][2 * h + c], grads.x[0][n][2 * h + c], row, key,
                                   lse[h], delta[h], keep);
        }
      }
      if (range.slices > 0) grads.hide(0, h, flash_visible<at_once / 8>(kernel.lists, range, row, offset, b.lane()), 0.0f);
    }
  }

  SP_DEVICE void store() {
    SP_UNROLL
    for (int h = 0; h < 2; ++h) {
      flash_place const p = place(h);
      if (p.tensor < 0 || !kernel.queries[p.tensor].dq.data) continue;
      add_row(dq, h, b.lane(), kernel.features.scale, kernel.queries[p.tensor].dq.at(p.row, head), 0, kernel.dim);
    }
  }
};

template <class T, int D, flash_shape Shape, class... Features>
template <class Block>
SP_DEVICE void flash_backward_queries<T, D, Shape, Features...>::operator()(Block& b) const {
  share_units(b, this->lists.head().items * this->heads.q_count, [&](index_t unit) {
    flash_item const& item = this->lists.item(int(unit / this->heads.q_count));
    flash_queries_block<Block, flash_backward_queries>(b, *this, item, int(unit % this->heads.q_count)).run();
  });
}

} // namespace sp::detail
