// The backward pass of the CPU backend: five products per pair of tiles, P recomputed from lse.
// dq sums key tiles in position order, dk and dv sum query tiles in position order, whichever of them is wanted, on any number of threads.
#pragma once

#include <sp/backend/cpu/pack.hpp>
#include <sp/backend/cpu/scores.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

template <class T, class Features>
struct cpu_backward {
  using A = accumulate_t<T>;

  tile_plan const& plan;
  Features const& features;
  call_params const& params;
  std::span<query_grad<T> const> queries;
  std::span<key_grad<T> const> keys;
  index_t dim, value_dim;
  backward_scratch<A> scratch;
  using tiles = typename backward_scratch<A>::tiles;
  bool want_queries = false, want_keys = false;

  cpu_backward(tile_plan const& p, Features const& feature_set, allocator& memory, call_params const& call,
               std::span<query_grad<T> const> query_tensors, std::span<key_grad<T> const> key_tensors, int thread_count)
      : plan(p), features(feature_set), params(call), queries(query_tensors), keys(key_tensors), dim(queries[0].q.extent(2)),
        value_dim(queries[0].dout.extent(2)), scratch(memory, p, dim, value_dim, thread_count) {
    for (auto const& x : queries) want_queries = want_queries || x.dq.data;
    for (auto const& x : keys) want_keys = want_keys || x.dk.data || x.dv.data;
  }

  /// One q head after the other. Threads take its key tiles in order, and add to dq in turn.
  template <class Queue>
  void run(Queue const& queue) {
    if (!want_queries && !want_keys) return;
    index_t const k_tiles = index_t(plan.k.tiles.size()), q_tiles = index_t(plan.q.tiles.size());
    for (index_t h = 0, packed = -1; h < params.heads.q_count; ++h) {
      index_t const kv = params.heads.kv_of(h), to_pack = kv == packed ? 0 : k_tiles;
      packed = kv;
      queue.parallel(to_pack + q_tiles, [&](index_t i) {
        i < to_pack ? pack_keys(plan.k.tiles[std::size_t(i)], kv) : pack_queries(plan.q.tiles[std::size_t(i - to_pack)], h);
      });
      scratch.order.begin();
      std::atomic<std::size_t> next{0};
      queue.parallel(min(queue.threads(), k_tiles), [&](index_t, int thread) { take_key_tiles(next, h, scratch.of(thread)); });
    }
  }

private:
  void pack_keys(tile const& t, index_t kv) {
    tile_rows cols(plan, plan.k, t);
    auto k_of = [&](int tensor) -> auto& { return keys[std::size_t(tensor)].k; };
    pack_panels<A>(cols, kv, dim, k_of, scratch.k_panels.from(t.packed_row).data);
    if (want_queries) pack_rows<A>(cols, kv, dim, k_of, scratch.k.from(t.packed_row));
    pack_panels<A>(
        cols, kv, value_dim, [&](int tensor) -> auto& { return keys[std::size_t(tensor)].v; },
        scratch.v_panels.from(t.packed_row).data);
  }

  void pack_queries(tile const& t, index_t h) {
    tile_rows rows(plan, plan.q, t);
    pack_rows<A>(
        rows, h, dim, [&](int tensor) -> auto& { return queries[std::size_t(tensor)].q; }, scratch.q.from(t.packed_row));
    pack_rows<A>(
        rows, h, value_dim, [&](int tensor) -> auto& { return queries[std::size_t(tensor)].dout; },
        scratch.dout.from(t.packed_row));
    for (index_t i = 0; i < rows.padded; ++i) {
      A lse = std::numeric_limits<A>::infinity(), delta = 0; // an lse of +inf makes every probability 0
      if (i < rows.count && rows.covered[std::size_t(i)]) {
        auto const& from = rows.from[std::size_t(i)];
        A l = queries[std::size_t(from.tensor)].lse(from.row, h);
        bool const sees_something = !is_minus_infinity(l); // NaN does, too: its gradients are not to look like zeros
        if (sees_something) lse = l, delta = queries[std::size_t(from.tensor)].delta(from.row, h);
      }
      scratch.lse_delta.from(0).row(0)[t.packed_row + i] = lse;
      scratch.lse_delta.from(0).row(1)[t.packed_row + i] = delta;
    }
  }

  void take_key_tiles(std::atomic<std::size_t>& next, index_t h, tiles x) {
    in_turn sums(scratch.order, scratch.buffers, [&](std::size_t query_tile, int buffer) {
      add_dq(tile_rows(plan, plan.q, plan.q.tiles[query_tile]), scratch.dq_of(x.thread, buffer), h);
    });
    for (std::size_t t; (t = next.fetch_add(1, std::memory_order_relaxed)) < plan.k.tiles.size();) key_tile(t, h, x, sums);
    sums.finish();
  }

  template <class Sums>
  void key_tile(std::size_t number, index_t h, tiles const& x, Sums& sums) {
    tile const& t = plan.k.tiles[number];
    tile_document const& d = plan.documents[t.document];
    sums.begin(d.first_k, number);
    auto modify = features.template for_head<A>(params.heads.q_head(h), d.id, params.random);
    tile_rows cols(plan, plan.k, t);
    if (want_keys) {
      std::fill(x.dk.data, x.dk.row(cols.padded), A(0));
      std::fill(x.dv.data, x.dv.row(cols.padded), A(0));
    }
    tile_interval near = query_tiles_near(plan, d, cols);
    for (std::size_t i = near.first; i < near.last; ++i) {
      sums.reached(i);
      score_tiles(d, i, t, cols, modify, h, x, sums);
    }
    sums.end();
    if (!want_keys) return;
    index_t kv = params.heads.kv_of(h);
    scatter(
        cols, x.dk, A(params.scale), kv, [&](int tensor) -> auto& { return keys[std::size_t(tensor)].dk; });
    scatter(
        cols, x.dv, A(1), kv, [&](int tensor) -> auto& { return keys[std::size_t(tensor)].dv; });
  }

  /// Query tile i against a key tile: adds to dk and dv at hand, and gives what belongs to dq.
  template <class ScoreMod, class Sums>
  void score_tiles(tile_document const& d, std::size_t i, tile const& kt, tile_rows const& cols, ScoreMod const& modify,
                   index_t h, tiles const& x, Sums& sums) {
    tile const& qt = plan.q.tiles[i];
    tile_rows rows(plan, plan.q, qt);
    tile_mask mask(plan, d, rows, cols);
    if (!mask.any) return;
    matrix<A> q = scratch.q.from(qt.packed_row), dout = scratch.dout.from(qt.packed_row);
    scores_product(q, scratch.k_panels.from(kt.packed_row).data, dim, mask, cols.padded, x.s);
    scores_product(dout, scratch.v_panels.from(kt.packed_row).data, value_dim, mask, cols.padded, x.dp);
    softmax_backward(score_context<A, ScoreMod>{modify, A(params.scale), rows, cols, mask, d.q_origin, d.k_origin}, x.s, x.dp,
                     scratch.lse_delta.from(0).row(0) + qt.packed_row, scratch.lse_delta.from(0).row(1) + qt.packed_row);
    if (want_keys) {
      keys_product(x.s, dout, value_dim, mask, cols.padded, x.dv);
      keys_product(x.dp, q, dim, mask, cols.padded, x.dk);
    }
    if (!want_queries) return;
    matrix<A> dq = scratch.dq_of(x.thread, sums.buffer());
    rows_product<update::overwrite>(x.dp, scratch.k.from(kt.packed_row), dim, mask, dq, static_cast<A const*>(nullptr));
    sums.give(i, [&] { add_dq(rows, dq, h); });
  }

  void add_dq(tile_rows const& rows, matrix<A> dq, index_t h) {
    scatter(
        rows, dq, A(params.scale), h, [&](int tensor) -> auto& { return queries[std::size_t(tensor)].dq; });
  }

  /// Adds factor x tile to the owners' tensors, where they want it. The product is rounded first: whether a compiler fuses it
  /// with the addition may depend on the owner's strides, and the bits must not.
  template <class ViewOf>
  static void scatter(tile_rows const& rows, matrix<A> tile, A factor, index_t head, ViewOf&& view_of) {
    using V = simd<A>;
    for (index_t i = 0; i < rows.count; ++i) {
      auto const& from = rows.from[std::size_t(i)];
      auto const& to = view_of(from.tensor);
      if (!rows.covered[std::size_t(i)] || !to.data) continue;
      A *x = &to(from.row, head, 0), *y = tile.row(i);
      for (index_t e = 0; e < to.extent(2); e += V::lanes) (V::load(y + e) * V(factor)).store(y + e);
      for (index_t e = 0; e < to.extent(2); ++e) x[e * to.stride(2)] += y[e];
    }
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
