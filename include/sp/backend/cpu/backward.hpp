// The backward pass of the CPU backend: five products per pair of tiles, P recomputed from lse.
// dq sums key tiles in position order, dk and dv sum query tiles in position order, the same whichever of them is wanted.
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
  bool want_queries = false, want_keys = false;

  cpu_backward(tile_plan const& p, Features const& feature_set, allocator& memory, call_params const& call,
               std::span<query_grad<T> const> query_tensors, std::span<key_grad<T> const> key_tensors)
      : plan(p), features(feature_set), params(call), queries(query_tensors), keys(key_tensors), dim(queries[0].q.extent(2)),
        value_dim(queries[0].dout.extent(2)), scratch(memory, p, dim, value_dim) {
    for (auto const& x : queries) want_queries = want_queries || x.dq.data;
    for (auto const& x : keys) want_keys = want_keys || x.dk.data || x.dv.data;
  }

  void run() {
    if (!want_queries && !want_keys) return;
    for (index_t h = 0, packed = -1; h < params.heads.q_count; ++h) {
      if (params.heads.kv_of(h) != packed) pack_keys(packed = params.heads.kv_of(h));
      pack_queries(h);
      for (tile_document const& d : plan.documents) {
        auto modify = features.template for_head<A>(params.heads.q_head(h), d.id, params.random);
        for (std::size_t t = d.first_k; t < d.last_k; ++t) key_tile(d, plan.k.tiles[t], modify, h);
      }
    }
  }

private:
  void pack_keys(index_t kv) {
    for (tile const& t : plan.k.tiles) {
      tile_rows cols(plan, plan.k, t);
      auto k_of = [&](int tensor) -> auto& { return keys[std::size_t(tensor)].k; };
      pack_panels<A>(cols, kv, dim, k_of, scratch.k_panels.from(t.packed_row).data);
      if (want_queries) pack_rows<A>(cols, kv, dim, k_of, scratch.k.from(t.packed_row));
      pack_panels<A>(
          cols, kv, value_dim, [&](int tensor) -> auto& { return keys[std::size_t(tensor)].v; },
          scratch.v_panels.from(t.packed_row).data);
    }
  }

  void pack_queries(index_t h) {
    for (tile const& t : plan.q.tiles) {
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
  }

  template <class ScoreMod>
  void key_tile(tile_document const& d, tile const& t, ScoreMod const& modify, index_t h) {
    tile_rows cols(plan, plan.k, t);
    tile_interval near = query_tiles_near(plan, d, cols);
    matrix<A> dk = scratch.dk.from(0), dv = scratch.dv.from(0);
    if (want_keys) {
      std::fill(dk.data, dk.row(cols.padded), A(0));
      std::fill(dv.data, dv.row(cols.padded), A(0));
    }
    for (std::size_t i = near.first; i < near.last; ++i) {
      tile const& qt = plan.q.tiles[i];
      tile_rows rows(plan, plan.q, qt);
      tile_mask mask(plan, d, rows, cols);
      if (!mask.any) continue;
      matrix<A> s = scratch.s.from(0), dp = scratch.dp.from(0), q = scratch.q.from(qt.packed_row),
                dout = scratch.dout.from(qt.packed_row);
      scores_product(q, scratch.k_panels.from(t.packed_row).data, dim, mask, cols.padded, s);
      scores_product(dout, scratch.v_panels.from(t.packed_row).data, value_dim, mask, cols.padded, dp);
      softmax_backward(score_context<A, ScoreMod>{modify, A(params.scale), rows, cols, mask, d.q_origin, d.k_origin}, s, dp,
                       scratch.lse_delta.from(0).row(0) + qt.packed_row, scratch.lse_delta.from(0).row(1) + qt.packed_row);
      if (want_keys) {
        keys_product(s, dout, value_dim, mask, cols.padded, dv);
        keys_product(dp, q, dim, mask, cols.padded, dk);
      }
      if (!want_queries) continue;
      rows_product<update::overwrite>(dp, scratch.k.from(t.packed_row), dim, mask, scratch.dq.from(0),
                                      static_cast<A const*>(nullptr));
      scatter(
          rows, scratch.dq.from(0), A(params.scale), h, [&](int tensor) -> auto& { return queries[std::size_t(tensor)].dq; });
    }
    if (!want_keys) return;
    index_t kv = params.heads.kv_of(h);
    scatter(
        cols, dk, A(params.scale), kv, [&](int tensor) -> auto& { return keys[std::size_t(tensor)].dk; });
    scatter(
        cols, dv, A(1), kv, [&](int tensor) -> auto& { return keys[std::size_t(tensor)].dv; });
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
