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

/// x / sqrt(sum x^2 + 1e-6) for each row; `by` is what each was multiplied by.
template <class A>
void normalise_rows(matrix<A> x, index_t rows, index_t dim, A* by) {
  using V = simd<A>;
  for (index_t i = 0; i < rows; ++i) {
    V sum(A(0));
    each_vector<A>(dim, [&](index_t d) { sum = multiply_add(V::load(x.row(i) + d), V::load(x.row(i) + d), sum); });
    by[i] = A(1) / std::sqrt(sum_of(sum) + A(1e-6));
    each_vector<A>(dim, [&](index_t d) { (V::load(x.row(i) + d) * V(by[i])).store(x.row(i) + d); });
  }
}
/// Its transpose: x are the normalised rows.
template <class A>
void pull_normalised(matrix<A> x, A const* by, index_t rows, index_t dim, matrix<A> dx) {
  using V = simd<A>;
  for (index_t i = 0; i < rows; ++i) {
    V sum(A(0));
    each_vector<A>(dim, [&](index_t d) { sum = multiply_add(V::load(x.row(i) + d), V::load(dx.row(i) + d), sum); });
    V const along(-sum_of(sum));
    each_vector<A>(dim, [&](index_t d) {
      (multiply_add(V::load(x.row(i) + d), along, V::load(dx.row(i) + d)) * V(by[i])).store(dx.row(i) + d);
    });
  }
}

/// Each row times a number: to = from o (times factor).
template <class A>
void scale_rows(matrix<A> from, A const* factor, A times, index_t rows, index_t width, matrix<A> to) {
  using V = simd<A>;
  for (index_t i = 0; i < rows; ++i) {
    V const by(factor[i] * times);
    each_vector<A>(width, [&](index_t d) { (V::load(from.row(i) + d) * by).store(to.row(i) + d); });
  }
}

template <class A>
A dot(A const* x, A const* y, index_t width) {
  using V = simd<A>;
  V sum(A(0));
  each_vector<A>(width, [&](index_t d) { sum = multiply_add(V::load(x + d), V::load(y + d), sum); });
  return sum_of(sum);
}

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
  void load(index_t first, bool outputs, bool grads = false) const {
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
    decays{t, A(set.scale)}.prepare(gate(0, first), {outputs, delta, grads});
  }

  /// u: what the chunk writes into a state: values; of the delta rule beta times the errors (I + beta L)^-1 (v - decayed k S).
  void writes(index_t first, matrix<A> state) const {
    load_rows(head_rows<T const>(call.v, first, head), t.n, t.rows, t.columns, delta ? t.u : t.y);
    if constexpr (delta) {
      find_errors(state, t.o, t.u, t.beta);
      scale_rows(t.l, t.beta, A(-1), t.rows, t.cols, t.solved);
      solve(t.solved, t.rows, t.columns, t.u);
    }
  }

  /// y: the errors themselves, and u. For the delta rule.
  void errors(index_t first, matrix<A> state) const {
    load_rows(head_rows<T const>(call.v, first, head), t.n, t.rows, t.columns, t.y);
    find_errors(state, t.u, t.y, nullptr);
    for (index_t i = 0; i < t.rows; ++i)
      each_vector<A>(t.cols,
                     [&](index_t j) { (V::load(t.l.row(i) + j) * (V(A(0)) - V::load(t.beta + j))).store(t.solved.row(i) + j); });
    solve(t.solved, t.rows, t.columns, t.y);
    scale_rows(t.y, t.beta, A(1), t.rows, t.columns, t.u);
  }

  /// values -= decayed k S, and times beta unless that is null.
  void find_errors(matrix<A> state, matrix<A> found, matrix<A> values, A const* beta) const {
    product<update::overwrite>(t.k, state, t.rows, t.key_dim, t.columns, found);
    for (index_t i = 0; i < t.rows; ++i) {
      V const by(-t.begin[i]), times(beta ? beta[i] : A(1));
      each_vector<A>(t.columns, [&](index_t e) {
        (multiply_add(V::load(found.row(i) + e), by, V::load(values.row(i) + e)) * times).store(values.row(i) + e);
      });
    }
  }

  void outputs(index_t first, matrix<A> state, view<T, 3> const& out) const {
    product<update::overwrite>(t.reads, state, t.rows, t.key_dim, t.columns, t.o);
    add_lower<update::rescale>(t.p, t.u, t.rows, t.columns, t.o, t.read_by);
    store_rows(t.o, t.n, head_rows<T>(out, first, head));
  }

  /// The state behind the chunk.
  void advance(matrix<A> state) const { product<update::rescale>(t.ket, t.u, t.dim, t.rows, t.columns, state, t.total); }

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
