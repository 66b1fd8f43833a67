// Heads in chunks: what a schedule computes while the keys of the next chunk are in flight.
// Chunks are cut by kv heads; the query heads that use them go along.
#pragma once

#include <sp/attention/ring/geometry.hpp>

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
  /// How many chunks there are if so many are wanted: none of them is without kv heads.
  static index_t number(heads whole, index_t wanted) { return max(1, min(wanted, whole.kv_count)); }

  template <class E, int R, class M>
  view<E, R, M> queries(view<E, R, M> const& v) const {
    return v.narrow(1, q, on.q_count);
  }
  template <class E, class M>
  view<E, 3, M> keys(view<E, 3, M> const& v) const {
    return v.narrow(1, kv, on.kv_count);
  }
};

} // namespace sp::detail
