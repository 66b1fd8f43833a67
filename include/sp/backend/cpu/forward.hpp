// The forward pass of the CPU backend: blocked online softmax over tiles.
// A row meets the key tiles of its document in position order; its result does not depend on who owns the rows beside it, nor on threads.
#pragma once

#include <sp/backend/cpu/pack.hpp>
#include <sp/backend/cpu/scores.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

template <class T, class Features>
struct cpu_forward {
  using A = accumulate_t<T>;

  tile_plan const& plan;
  Features const& features;
  call_params const& params;
  view<T const, 3> q; // (rows, q heads, dim)
  std::span<kv_views<T> const> keys;
  attention_state<T> state;
  index_t dim, value_dim;
  forward_scratch<A> scratch;
  using tiles = typename forward_scratch<A>::tiles;

  cpu_forward(tile_plan const& p, Features const& feature_set, allocator& memory, call_params const& call,
              view<T const, 3> queries, std::span<kv_views<T> const> key_tensors, attention_state<T> const& so_far,
              int thread_count)
      : plan(p), features(feature_set), params(call), q(queries), keys(key_tensors), state(so_far), dim(q.extent(2)),
        value_dim(state.out.extent(2)), scratch(memory, p, dim, value_dim, thread_count) {}

  /// One kv head after the other; its query tiles, of all its q heads, are one another's equals.
  template <class Queue>
  void run(Queue const& queue) {
    index_t const k_tiles = index_t(plan.k.tiles.size()), q_tiles = index_t(plan.q.tiles.size());
    for (index_t h = 0, last; h < params.heads.q_count; h = last) {
      index_t const kv = params.heads.kv_of(h);
      for (last = h + 1; last < params.heads.q_count && params.heads.kv_of(last) == kv;) ++last;
      queue.parallel(k_tiles, [&](index_t i) { pack_keys(plan.k.tiles[std::size_t(i)], kv); });
      queue.parallel((last - h) * q_tiles, [&](index_t i, int thread) {
        query_tile(plan.q.tiles[plan.heavy_first[std::size_t(i % q_tiles)]], h + i / q_tiles, scratch.of(thread));
      });
    }
  }

private:
  void pack_keys(tile const& t, index_t kv) {
    tile_rows rows(plan, plan.k, t);
    pack_panels<A>(
        rows, kv, dim, [&](int tensor) -> auto& { return keys[std::size_t(tensor)].k; }, scratch.k.from(t.packed_row).data);
    pack_rows<A>(
        rows, kv, value_dim, [&](int tensor) -> auto& { return keys[std::size_t(tensor)].v; }, scratch.v.from(t.packed_row));
  }

  void query_tile(tile const& t, index_t h, tiles x) {
    tile_document const& d = plan.documents[t.document];
    auto modify = features.template for_head<A>(params.heads.q_head(h), d.id, params.random);
    tile_rows rows(plan, plan.q, t);
    tile_interval near = key_tiles_near(plan, d, rows.position(0), rows.position(rows.count - 1));
    softmax_state<A> softmax;
    bool touched = false;
    for (std::size_t i = near.first; i < near.last; ++i) {
      tile_rows cols(plan, plan.k, plan.k.tiles[i]);
      tile_mask mask(plan, d, rows, cols);
      if (!mask.any) continue;
      if (!touched) load(rows, softmax, h, x);
      touched = true;
      index_t at = plan.k.tiles[i].packed_row;
      scores_product(x.q, scratch.k.from(at).data, dim, mask, cols.padded, x.s);
      online_softmax(score_context<A, decltype(modify)>{modify, A(params.scale), rows, cols, mask, d.q_origin, d.k_origin}, x.s,
                     softmax);
      rows_product<update::rescale>(x.s, scratch.v.from(at), value_dim, mask, x.o, softmax.rescale.data());
    }
    if (touched) store(rows, softmax, h, x.o);
  }

  /// The state so far is an online softmax with m = lse, l = 1, acc = out.
  void load(tile_rows const& rows, softmax_state<A>& softmax, index_t h, tiles x) {
    constexpr A none = minus_infinity<A>;
    softmax.m.fill(none);
    softmax.l.fill(0);
    pack_rows<A>(
        rows, h, dim, [&](int) -> auto& { return q; }, x.q);
    matrix<A> o = x.o;
    for (index_t i = 0; i < rows.padded; ++i) {
      index_t row = i < rows.count && rows.covered[std::size_t(i)] ? rows.from[std::size_t(i)].row : -1;
      A lse = row < 0 ? none : state.lse(row, h);
      if (is_minus_infinity(lse)) {
        std::fill(o.row(i), o.row(i) + o.stride, A(0));
        continue;
      }
      softmax.m[std::size_t(i)] = lse;
      softmax.l[std::size_t(i)] = 1;
      for (index_t e = 0; e < value_dim; ++e) o.row(i)[e] = state.out(row, h, e);
      std::fill(o.row(i) + value_dim, o.row(i) + o.stride, A(0));
    }
  }

  void store(tile_rows const& rows, softmax_state<A> const& softmax, index_t h, matrix<A> o) {
    for (index_t i = 0; i < rows.count; ++i) {
      A l = softmax.l[std::size_t(i)];
      if (!rows.covered[std::size_t(i)] || l == 0) continue;
      index_t row = rows.from[std::size_t(i)].row;
      state.lse(row, h) = softmax.m[std::size_t(i)] + std::log(l);
      for (index_t e = 0; e < value_dim; ++e) state.out(row, h, e) = o.row(i)[e] / l + A(0); // + 0: no -0, visited or not
    }
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
