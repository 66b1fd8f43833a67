// The walk over the chunks of a segment, for one value head on one thread: what all kernels of linear attention share.
// Forwards it carries the state, backwards the state's gradient; between them a block of chunks is replayed, so that few states are kept.
#pragma once

#include <sp/linear/cpu/diagonal.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// What a kernel is told once.
struct linear_settings {
  double scale;
  bool normalise;
  index_t chunk;
  index_t block; ///< chunks that are replayed at once
};

/// How many gates a kernel of this form has: log decays, and beta of the delta rule.
constexpr int gates_of(map_form form) { return form == map_form::identity ? 0 : form == map_form::dense ? 2 : 1; }

template <class T, map_form Form>
struct linear_walk {
  using A = accumulate_t<T>;
  using V = simd<A>;
  static constexpr bool delta = Form == map_form::dense;
  static constexpr int gates = gates_of(Form);
  using call_type = linear_call<T, gates>;
  using decays = std::conditional_t<Form == map_form::diagonal, diagonal_decays<A>, scalar_decays<A>>;

  call_type const& call;
  linear_settings const& set;
  chunk_tiles<A>& t;
  index_t head;

  index_t key_head() const { return head / (call.v.extent(1) / call.k.extent(1)); }
  head_rows<A const> gate(std::size_t which, index_t first) const {
    if constexpr (gates == 0)
      return {view<A const, 3>{}, 0, 0};
    else
      return {call.gates[which], first, head};
  }

  /// Keys, decays and, for outputs, queries of the chunk that begins at row `first`.
  void load(index_t first, bool outputs) const {
    t.take(min(t.chunk, call.k.extent(0) - first));
    load_rows(head_rows<T const>(call.k, first, key_head()), t.n, t.rows, t.dim, t.k);
    if (set.normalise) normalise_rows(t.k, t.rows, t.dim, t.k_norm);
    if (outputs) {
      load_rows(head_rows<T const>(call.q, first, key_head()), t.n, t.rows, t.dim, t.q);
      if (set.normalise) normalise_rows(t.q, t.rows, t.dim, t.q_norm);
    }
    if constexpr (delta) {
      head_rows<A const> const beta = gate(1, first);
      for (index_t i = 0; i < t.cols; ++i) t.beta[i] = i < t.n ? *beta.row(i) : A(0);
    }
    decays{t, A(set.scale)}.prepare(gate(0, first), {outputs, delta});
    if constexpr (delta)
      for (index_t i = 0; i < t.rows; ++i) t.looked_up_by[i] = -t.beta[i] * t.begin[i], t.missed_by[i] = -t.begin[i];
  }

  /// u: what the chunk writes into a state: values; of the delta rule beta times the errors (I + beta L)^-1 (v - decayed k S).
  void writes(index_t first, matrix<A> state) const {
    load_rows(head_rows<T const>(call.v, first, head), t.n, t.rows, t.columns, t.u);
    if constexpr (delta) {
      product(looked_up(state), t.rows, t.columns, t.u, {update::rescale, t.beta, t.looked_up_by});
      scale_lower(t.l, t.beta, A(-1), t.rows, t.solved);
      solve(plain(t.solved), t.rows, t.columns, t.u);
    }
  }

  /// y: the errors themselves, and u. For the delta rule.
  void errors(index_t first, matrix<A> state) const {
    load_rows(head_rows<T const>(call.v, first, head), t.n, t.rows, t.columns, t.y);
    product(looked_up(state), t.rows, t.columns, t.y, {update::add, nullptr, t.missed_by});
    scale_lower_columns(t.l, t.beta, A(-1), t.rows, t.solved);
    solve(plain(t.solved), t.rows, t.columns, t.y);
    scale_rows(t.y, t.beta, A(1), t.rows, t.columns, t.u);
  }

  term<A> looked_up(matrix<A> state) const { return {plain(t.k), state, t.key_dim}; }

  void outputs(index_t first, matrix<A> state, view<T, 3> const& out) const {
    term<A> const from_state{plain(t.reads), state, t.key_dim}, from_chunk{plain(t.p), t.u, t.rows, triangle::lower};
    product(from_state, from_chunk, t.rows, t.columns, t.o);
    store_rows(t.o, t.n, head_rows<T>(out, first, head));
  }

  /// The state behind the chunk.
  void advance(matrix<A> state) const {
    product(term<A>{transposed(t.writes), t.u, t.rows}, t.dim, t.columns, state, {update::rescale, t.total});
  }

  /// The whole segment; out and kept may be null. `kept` (value heads, blocks - 1, key dim, value dim) gets the states before all blocks but the
  /// first, `passed` is shown each chunk when the state is behind it.
  template <class Passed>
  void forward(matrix<A> state, view<T, 3> const& out, view<A, 4> const& kept, Passed const& passed) const {
    index_t const rows = call.k.extent(0), block = set.block * t.chunk;
    for (index_t first = 0; first < rows; first += t.chunk) {
      if (kept.data && first > 0 && first % block == 0) store_state(state, states_of(kept, first / block - 1), head);
      load(first, out.data != nullptr);
      writes(first, state);
      if (out.data) outputs(first, state, out);
      advance(state);
      passed(t);
    }
  }

  /// (value heads, key dim, value dim) of one block.
  template <class E>
  static view<E, 3> states_of(view<E, 4> const& kept, index_t block) {
    return {kept.data + block * kept.stride(1),
            {kept.extent(0), kept.extent(2), kept.extent(3)},
            {kept.stride(0), kept.stride(2), kept.stride(3)}};
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
