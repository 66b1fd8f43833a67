// The walk over the chunks of a segment, for one value head on one thread: what all kernels of linear attention share.
// It is compiled once for each type of sums: the form of the map is a value, and rows are read and written by functions of their type.
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

/// A call without the type of its elements.
template <class A>
struct linear_inputs {
  map_form form{};
  linear_shape shape{};
  row_reader<A> q{}, k{}, v{};
  std::array<view<A const, 3>, 2> gates{}; ///< null data: not there

  /// Extents alone.
  linear_inputs(map_form f, linear_shape const& s) : form(f), shape(s) {}
  template <class T, int Gates>
  linear_inputs(map_form f, linear_call<T, Gates> const& c) : form(f), shape(c.shape()), q(c.q), k(c.k), v(c.v) {
    std::copy(c.gates.begin(), c.gates.end(), gates.begin());
  }
};

template <class A>
struct linear_walk {
  using V = simd<A>;

  linear_inputs<A> const& in;
  linear_settings const& set;
  chunk_tiles<A>& t;
  index_t head;

  bool delta() const { return in.form == map_form::dense; }
  index_t key_head() const { return head / (in.shape.v_heads / in.shape.k_heads); }
  head_rows<A const> gate(std::size_t which, index_t first) const { return {in.gates[which], first, head}; }

  /// Keys, decays and, for outputs, queries of the chunk that begins at row `first`.
  void load(index_t first, bool outputs) const {
    t.take(min(t.chunk, in.shape.rows - first));
    load_rows(in.k, first, key_head(), t.n, t.rows, t.dim, t.k);
    if (set.normalise) normalise_rows(t.k, t.rows, t.dim, t.k_norm);
    if (outputs) {
      load_rows(in.q, first, key_head(), t.n, t.rows, t.dim, t.q);
      if (set.normalise) normalise_rows(t.q, t.rows, t.dim, t.q_norm);
    }
    linear_scores const want{outputs, delta()};
    if (in.form == map_form::diagonal)
      diagonal_decays<A>{t, A(set.scale)}.prepare(gate(0, first), want);
    else
      scalar_decays<A>{t, A(set.scale)}.prepare(gate(0, first), want);
    if (delta()) {
      head_rows<A const> const beta = gate(1, first);
      for (index_t i = 0; i < t.rows; ++i) {
        t.beta[i] = i < t.n ? *beta.row(i) : A(0);
        t.looked_up_by[i] = -t.beta[i] * t.begin[i], t.missed_by[i] = -t.begin[i];
      }
    }
  }
  void load_values(index_t first, matrix<A> to) const { load_rows(in.v, first, head, t.n, t.rows, t.columns, to); }

  /// u holds values; it becomes what the chunk writes into a state: of the delta rule beta times the errors
  /// (I + beta L)^-1 (v - decayed k S). From column d on, `width` of them.
  void writes(matrix<A> state, index_t d, index_t width) const {
    if (!delta()) return;
    matrix<A> const u = columns_from(t.u, d);
    product(looked_up(state, d), t.rows, width, u, {update::rescale, t.beta, t.looked_up_by});
    solve(plain(t.solved), t.rows, width, u);
  }
  /// y holds values; it becomes the errors themselves. For the delta rule.
  void errors(matrix<A> state, index_t d, index_t width) const {
    matrix<A> const y = columns_from(t.y, d);
    product(looked_up(state, d), t.rows, width, y, {update::add, nullptr, t.missed_by});
    solve(plain(t.solved), t.rows, width, y);
    scale_rows(y, t.beta, A(1), t.rows, width, columns_from(t.u, d));
  }
  term<A> looked_up(matrix<A> state, index_t d) const { return {plain(t.k), columns_from(state, d), t.key_dim}; }

  void outputs(matrix<A> state, index_t d, index_t width) const {
    term<A> const from_state{plain(t.reads), columns_from(state, d), t.key_dim};
    term<A> const from_chunk{plain(t.p), columns_from(t.u, d), t.rows, triangle::lower};
    product(from_state, from_chunk, t.rows, width, columns_from(t.o, d));
  }

  /// The state behind the chunk.
  void advance(matrix<A> from, matrix<A> to, index_t d, index_t width) const {
    term<A> const added{transposed(t.writes), columns_from(t.u, d), t.rows};
    product(added, t.dim, width, columns_from(to, d), {update::rescale, t.total, nullptr, columns_from(from, d)});
  }

  /// The whole segment; `out` and `kept` may be null. `kept` (value heads, blocks - 1, key dim, value dim) gets the states before all
  /// blocks but the first. `passed`, unless it is null, is multiplied by the decays (dim) of each chunk.
  void forward(matrix<A> state, row_writer<A> const& out, view<A, 4> const& kept, A* passed) const {
    index_t const rows = in.shape.rows, block = set.block * t.chunk;
    for (index_t first = 0; first < rows; first += t.chunk) {
      if (kept.data && first > 0 && first % block == 0) store_state(state, states_of(kept, first / block - 1), head);
      load(first, out.data != nullptr);
      load_values(first, t.u);
      if (delta()) scale_lower(t.l, t.beta, A(-1), t.rows, t.solved);
      each_panel<A>(t.columns, [&](index_t d, index_t width) {
        writes(state, d, width);
        if (out.data) outputs(state, d, width);
        advance(state, state, d, width);
      });
      if (out.data) store_rows(t.o, t.n, out, first, head);
      if (passed) pass(passed);
    }
  }

  /// (value heads, key dim, value dim) of one block.
  template <class E>
  static view<E, 3> states_of(view<E, 4> const& kept, index_t block) {
    return {kept.data + block * kept.stride(1),
            {kept.extent(0), kept.extent(2), kept.extent(3)},
            {kept.stride(0), kept.stride(2), kept.stride(3)}};
  }

private:
  void pass(A* passed) const {
    for (index_t d = 0; d < t.key_dim; ++d) {
      A const all = passed[d] * t.total[d];
      passed[d] = all < std::numeric_limits<A>::min() ? A(0) : all;
    }
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
