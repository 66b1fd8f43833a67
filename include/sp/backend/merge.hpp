// Merging partial attention: two normalised outputs over disjoint keys, with their lse, become one.
// (0, -inf) is the identity; extreme values never give NaN; the sum of the two weights is 1 to rounding.
#pragma once

#include <sp/backend/concepts.hpp>
#include <sp/core/queue.hpp>
#include <sp/core/real.hpp>

namespace sp {

namespace detail {

/// lse of two partial results and the weight of each: exp(a - lse), exp(b - lse).
template <class A>
struct merged {
  A lse, first, second;
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

template <class T, class M>
struct merge_body {
  attention_state<T, M> state, other;
  SP_BOTH void operator()(index_t i, index_t h) const {
    auto const w = merge_weights(state.lse(i, h), other.lse(i, h));
    if (w.second == 0) return;
    state.lse(i, h) = w.lse;
    for (index_t c = 0; c < state.out.extent(2); ++c) {
      auto& x = state.out(i, h, c);
      x = w.first == 0 ? other.out(i, h, c) : w.first * x + w.second * other.out(i, h, c);
    }
  }
};

} // namespace detail

/// Folds `other` into `state`: lse = log(exp a + exp b), out = the outputs weighted by exp(a - lse) and exp(b - lse). One pass of the
/// queue; without one, over host tensors on the caller's thread.
template <class T, class Q>
void merge(Q const& q, attention_state<T, typename Q::memory_type> const& state,
           attention_state<T, typename Q::memory_type> const& other) {
  q.for_each(state.lse.extents, detail::merge_body<T, typename Q::memory_type>{state, other});
}
template <class T>
void merge(attention_state<T> const& state, attention_state<T> const& other) {
  sp::merge<T>(inline_queue{}, state, other);
}

} // namespace sp
