// One chunk of tokens of one value head: the tiles of a thread, and the decays of a chunk cumulated so that no difference of them cancels.
// A decay from one token to a later one is e^(G_i - G_j), masked before the exponential; below the smallest normal number it is 0.
#pragma once

#include <sp/linear/concepts.hpp>
#include <sp/linear/cpu/products.hpp>
#include <sp/linear/cpu/rows.hpp>

namespace sp::detail {
inline namespace SP_CPU_TARGET {

/// Below this, e^x is less than the smallest normal number.
template <class A>
inline constexpr A least_log = sizeof(A) == 4 ? A(-87.3) : A(-708.3);

/// e^x, or 0 where that is below the smallest normal number: subnormals stall processors.
template <class A>
simd<A> decay_of(simd<A> x) {
  using V = simd<A>;
  return where_less(x, V(least_log<A>), V(A(0)), exp_of(x));
}

template <class A>
alignas(simd_bytes) inline constexpr auto lane_numbers = [] {
  std::array<A, std::size_t(simd<A>::lanes)> r{};
  for (std::size_t i = 0; i < r.size(); ++i) r[i] = A(i);
  return r;
}();

/// first, first + 1, ...
template <class A>
simd<A> numbers_from(index_t first) {
  return simd<A>(A(first)) + simd<A>::load(lane_numbers<A>.data());
}

/// hi + lo += g, exactly (Knuth's two-sum). What is decayed to nothing by one token is cut off: twice least_log erases all before it, and
/// sums of it stay small enough to tell the decays behind it apart.
template <class A>
void add_log(simd<A>& hi, simd<A>& lo, simd<A> g) {
  using V = simd<A>;
  V const most(2 * least_log<A>), x = where_less(g, most, most, g), sum = rounded(hi + x), part = rounded(sum - hi);
  V const of_hi = rounded(hi - rounded(sum - part)), of_x = rounded(x - part);
  lo = lo + (of_hi + of_x);
  hi = sum;
}

/// What a call works with: extents, padded to whole register tiles.
struct chunk_extents {
  index_t chunk;              ///< tokens of a chunk
  index_t key_dim, value_dim; ///< of a head
  index_t dim;                ///< key dim, padded
  index_t values;             ///< value dim, padded
  index_t columns;            ///< of the state: `values`, and those of M where a dense map is computed beside it
};

/// The tiles of one thread for a chunk: forward.
template <class A>
struct chunk_tiles : chunk_extents {
  index_t n = 0, rows = 0, cols = 0; ///< tokens at hand; padded to micro_rows; to micro_columns

  matrix<A> q, k;              ///< (tokens, dim), normalised if that is asked for
  matrix<A> kt;                ///< (dim, tokens): k transposed
  matrix<A> reads;             ///< (tokens, dim): q times scale and the decay from the chunk's begin: what reads the state
  matrix<A> writes;            ///< (tokens, dim): k times the decay to the chunk's end: what adds to the state
  matrix<A> p;                 ///< (tokens, tokens), lower triangular: what reads u
  matrix<A> y;                 ///< (tokens, columns): values; of the delta rule the error that a token corrects
  matrix<A> u;                 ///< (tokens, columns): what is written under k: values, or beta times errors
  matrix<A> o;                 ///< (tokens, columns): outputs
  matrix<A> decay, l, solved;  ///< (tokens, tokens): decays; k.k times them, strictly lower; -l times beta
  matrix<A> high, low;         ///< (tokens, dim), or (1, tokens): cumulated log decays
  A *begin, *end;              ///< (tokens): decay from the chunk's begin, to its end
  A* beta;                     ///< (tokens)
  A *looked_up_by, *missed_by; ///< (tokens): what k.S counts in u and in the errors, both negative: begin times beta, begin
  A* total;                    ///< (dim): decay of the whole chunk
  A *q_norm, *k_norm;          ///< (tokens): what rows were multiplied by

  chunk_tiles(tile_carver<A>& at, chunk_extents const& x, map_form form) : chunk_extents(x) {
    for (matrix<A>* m : {&q, &k, &reads, &writes}) *m = at.tile(chunk, dim);
    kt = at.tile(dim, chunk);
    for (matrix<A>* m : {&y, &o}) *m = at.tile(chunk, columns);
    bool const delta = form == map_form::dense, diagonal = form == map_form::diagonal;
    u = delta ? at.tile(chunk, columns) : y;
    for (matrix<A>* m : {&p, &decay}) *m = at.tile(chunk, chunk);
    for (matrix<A>* m : {&l, &solved}) *m = delta ? at.tile(chunk, chunk) : p;
    for (matrix<A>* m : {&high, &low}) *m = diagonal ? at.tile(chunk, dim) : at.tile(1, chunk);
    for (A** a : {&begin, &end, &beta, &looked_up_by, &missed_by, &q_norm, &k_norm}) *a = at.numbers(chunk);
    total = at.numbers(dim);
  }

  void take(index_t tokens) {
    n = tokens;
    rows = round_up(n, micro_rows);
    cols = round_up(n, micro_columns<A>);
  }
};

/// And those of the backward pass.
template <class A>
struct chunk_grads {
  matrix<A> dout, du;         ///< (tokens, values)
  matrix<A> through;          ///< (tokens, values): of the delta rule, the gradient of k.S
  matrix<A> doutt, ut, dyt;   ///< (values, tokens)
  matrix<A> dqst, dket, dkct; ///< (dim, tokens): gradients of what reads the state, adds to it, and looks up what it holds
  matrix<A> dp, dl;           ///< (tokens, tokens)
  matrix<A> dq, dk, dg;       ///< (tokens, dim)
  A *beta, *g;                ///< (tokens)
  A *reads, *writes, *later;  ///< (tokens): sums over dim of gradient times factor, for the gradient of decays
  A* total;                   ///< (dim): of the decay of the whole chunk, times that decay

  chunk_grads(tile_carver<A>& at, chunk_extents const& x, map_form form) {
    bool const delta = form == map_form::dense, diagonal = form == map_form::diagonal;
    for (matrix<A>* m : {&dout, &du}) *m = at.tile(x.chunk, x.values);
    for (matrix<A>* m : {&doutt, &ut}) *m = at.tile(x.values, x.chunk);
    through = delta ? at.tile(x.chunk, x.values) : du;
    dyt = delta ? at.tile(x.values, x.chunk) : ut;
    for (matrix<A>* m : {&dqst, &dket}) *m = at.tile(x.dim, x.chunk);
    dkct = delta ? at.tile(x.dim, x.chunk) : dket;
    dp = at.tile(x.chunk, x.chunk);
    dl = delta ? at.tile(x.chunk, x.chunk) : dp;
    for (matrix<A>* m : {&dq, &dk}) *m = at.tile(x.chunk, x.dim);
    dg = diagonal ? at.tile(x.chunk, x.dim) : dq;
    for (A** a : {&beta, &g, &reads, &writes, &later}) *a = at.numbers(x.chunk);
    total = at.numbers(x.dim);
  }
};

} // namespace SP_CPU_TARGET
} // namespace sp::detail
