// Heads in chunks: what is computed while the inputs of the next chunk are in flight.
// Chunks are cut by kv heads; the query heads that use them go along.
#pragma once

#include <sp/backend/concepts.hpp>
#include <sp/layout/routed.hpp>

namespace sp::detail {

/// kv heads [a, b) of the local ones and the query heads that use them.
struct head_chunk {
  heads on;
  index_t q = 0, kv = 0; ///< first local heads

  static head_chunk of(heads whole, index_t chunk, index_t chunks) {
    heads const on = chunk_of(whole, chunk, chunks);
    return {on, on.q_begin - whole.q_begin, on.kv_begin - whole.kv_begin};
  }
  /// The numbers of a call for these heads.
  call_params numbers(call_params n) const {
    n.heads = on;
    return n;
  }
  [[nodiscard]] head_cut::range range(head_cut::kind kind) const noexcept {
    return kind == head_cut::kind::q ? head_cut::range{q, on.q_count} : head_cut::range{kv, on.kv_count};
  }

  template <class E, int R, class M>
  view<E, R, M> queries(view<E, R, M> const& v) const {
    return v.narrow(1, q, on.q_count);
  }
  template <class E, class M>
  view<E, 3, M> keys(view<E, 3, M> const& v) const {
    return v.narrow(1, kv, on.kv_count);
  }
  template <class T, class M>
  attention_state<T, M> queries(attention_state<T, M> const& s) const {
    return {queries(s.out), queries(s.lse)};
  }
  template <class T, class M>
  query_grad<T, M> queries(query_grad<T, M> const& g) const {
    return {queries(g.q), queries(g.out), queries(g.dout), queries(g.lse), queries(g.delta), queries(g.dq)};
  }
  template <class T, class M>
  kv_views<T, M> keys(kv_views<T, M> const& x) const {
    return {keys(x.k), keys(x.v)};
  }
  template <class T, class M>
  key_grad<T, M> keys(key_grad<T, M> const& g) const {
    return {keys(g.k), keys(g.v), keys(g.dk), keys(g.dv)};
  }
};

/// All local heads of a call, cut into chunks. Of more chunks than kv heads some are empty.
struct chunks_of_heads {
  heads whole;
  index_t count = 1;

  /// As many as wanted, but no more than there are kv heads; one if there are none.
  static chunks_of_heads at_most(heads whole, index_t wanted) { return {whole, max(1, min(wanted, whole.kv_count))}; }

  [[nodiscard]] head_chunk at(index_t i) const { return head_chunk::of(whole, i, count); }
  /// Heads of the chunk that has the most.
  [[nodiscard]] index_t widest(head_cut::kind kind) const {
    index_t n = 0;
    for (index_t i = 0; i < count; ++i) n = max(n, at(i).range(kind).count);
    return n;
  }
};

} // namespace sp::detail
