// Merging partial attention: two normalised outputs over disjoint keys, with their lse, become one.
// (0, -inf) is the identity; extreme values never give NaN; the sum of the two weights is 1 to rounding.
#pragma once

#include <array>

#include <sp/backend/concepts.hpp>
#include <sp/core/elementwise.hpp>
#include <sp/core/queue.hpp>
#include <sp/core/real.hpp>

namespace sp {

namespace detail {

/// lse of two partial results and the weight of each: exp(a - lse), exp(b - lse).
template <class A>
struct merged {
  A lse, first, second;
  /// Of two partial outputs.
  SP_BOTH A operator()(A const& a, A const& b) const { return first == 0 ? b : first * a + second * b; }
};

template <class A>
SP_BOTH merged<A> merge_weights(A const& a, A const& b) {
  if (is_minus_infinity(b)) return {a, A(1), A(0)};
  if (is_minus_infinity(a)) return {b, A(0), A(1)};
  if (a == b) return {a + log_of(A(2)), A(0.5), A(0.5)}; // also where both are +inf
  A small = exp_of(-abs_of(a - b)), large = 1 / (1 + small);
  A lse = (a > b ? a : b) + log1p_of(small);
  return a > b ? merged<A>{lse, large, small * large} : merged<A>{lse, small * large, large};
}

/// to = the merged outputs of four elements that are there and four of `from`.
template <class A, class T>
SP_BOTH void merge_four(merged<A> const& w, A* to, T const* from) {
  four_elements<A> x(to);
  four_elements<T> const y(from);
  for (int n = 0; n < four_elements<A>::count; ++n) x.now.of[n] = w(x.now.of[n], to_acc(y.now.of[n]));
  x.store(to);
}

template <class T, class M>
struct merge_body {
  attention_state<T, M> state, other;
  SP_BOTH void operator()(index_t i, index_t h) const {
    auto const w = merge_weights(state.lse(i, h), other.lse(i, h));
    if (w.second == 0) return;
    state.lse(i, h) = w.lse;
    for (index_t c = 0; c < state.out.extent(2); ++c) {
      auto& x = state.out(i, h, c);
      x = w(x, other.out(i, h, c));
    }
  }
};

/// On a device neighbours in memory are neighbours of a warp: index c counts fours of elements, and lse follows behind them all.
template <class T, class M>
struct merge_fours {
  attention_state<T, M> state, other;
  SP_BOTH void operator()(index_t i, index_t h, index_t c) const {
    auto const w = merge_weights(state.lse(i, h), other.lse(i, h));
    if (w.second == 0) return;
    index_t const first = four_elements<accumulate_t<T>>::count * c;
    merge_four(w, &state.out(i, h, first), &other.out(i, h, first));
  }
};
template <class T, class M>
struct merge_lse {
  attention_state<T, M> state, other;
  SP_BOTH void operator()(index_t i, index_t h) const { state.lse(i, h) = merge_weights(state.lse(i, h), other.lse(i, h)).lse; }
};

} // namespace detail

/// Folds `other` into `state`: lse = log(exp a + exp b), out = the outputs weighted by exp(a - lse) and exp(b - lse). One or two
/// passes of the queue; without one, over host tensors on the caller's thread.
template <class T, class Q>
void merge(Q const& q, attention_state<T, typename Q::memory_type> const& state,
           attention_state<T, typename Q::memory_type> const& other) {
  using M = typename Q::memory_type;
  if constexpr (!detail::runs_on_host<Q>) {
    constexpr index_t n = detail::four_elements<accumulate_t<T>>::count;
    auto const& [rows, heads, dim] = state.out.extents;
    if (dim % n == 0 && state.out.stride(2) == 1 && other.out.stride(2) == 1) {
      q.for_each(std::array{rows, heads, dim / n}, detail::merge_fours<T, M>{state, other});
      return q.for_each(state.lse.extents, detail::merge_lse<T, M>{state, other});
    }
  }
  q.for_each(state.lse.extents, detail::merge_body<T, M>{state, other});
}
template <class T>
void merge(attention_state<T> const& state, attention_state<T> const& other) {
  sp::merge<T>(inline_queue{}, state, other);
}

} // namespace sp
