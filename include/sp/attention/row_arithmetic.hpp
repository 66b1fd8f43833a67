// Row-wise arithmetic of attention that no kernel needs to know: delta, attention sinks, sums in a wider type.
// Each function is one pass of a queue over its tensors; without a queue, over host tensors on the caller's thread.
#pragma once

#include <sp/core/elementwise.hpp>
#include <sp/core/memory.hpp>
#include <sp/core/real.hpp>
#include <sp/geometry/heads.hpp>

namespace sp::detail {

/// a b with the same bits whatever the target and whatever the compiler fuses: it fuses one loop and not another, depending on
/// strides, and the same row would get different bits on different ranks. The product of two floats is exact in double.
SP_BOTH inline double product_of(float a, float b) { return double(a) * double(b); }
SP_BOTH inline double product_of(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  double product = a * b; // rounded here, hidden from whoever would fuse it
#if defined(__x86_64__)
  asm("" : "+x"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#else
  double const volatile rounded = product;
  product = rounded;
#endif
  return product;
#endif
}

template <class T, class M>
struct delta_body {
  view<T const, 3, M> out, dout;
  view<accumulate_t<T>, 2, M> delta;
  SP_BOTH void operator()(index_t i, index_t h) const {
    double sum = 0;
    for (index_t d = 0; d < out.extent(2); ++d) sum += product_of(to_acc(out(i, h, d)), to_acc(dout(i, h, d)));
    delta(i, h) = accumulate_t<T>(sum);
  }
};

/// delta (rows, heads) = sum over dim of dout * out: the row sum of dP o P in the softmax backward (docs/semantics.md, ring backward).
template <class T, class Q>
void row_delta(Q const& q, view_on<Q, T const, 3> out, view_on<Q, T const, 3> dout, view_on<Q, accumulate_t<T>, 2> delta) {
  q.for_each(delta.extents, delta_body<T, typename Q::memory_type>{out, dout, delta});
}
template <class T>
void row_delta(view<T const, 3> out, view<T const, 3> dout, view<accumulate_t<T>, 2> delta) {
  row_delta<T>(inline_queue{}, out, dout, delta);
}

template <class A, class M>
struct sinks_body {
  index_t q_begin;
  view<A const, 1, M> sinks;
  view<A, 3, M> out;
  view<A, 2, M> lse;
  SP_BOTH void operator()(index_t i, index_t h) const {
    A s = sinks(q_begin + h), l = lse(i, h);
    if (is_minus_infinity(l)) return;
    A m = s > l ? s : l;
    A joined = m + log1p_of(exp_of(-abs_of(s - l)));
    A weight = exp_of(l - joined);
    for (index_t d = 0; d < out.extent(2); ++d) out(i, h, d) *= weight;
    lse(i, h) = joined;
  }
};

/// Sinks, once after the last merge: lse' = logaddexp(lse, s), out' = out exp(lse - lse'). A row that sees no key stays (0, -inf).
template <class A, class Q>
void apply_sinks(Q const& q, heads on, view_on<Q, A const, 1> sinks, view_on<Q, A, 3> out, view_on<Q, A, 2> lse) {
  q.for_each(lse.extents, sinks_body<A, typename Q::memory_type>{on.q_begin, sinks, out, lse});
}
template <class A>
void apply_sinks(heads on, view<A const, 1> sinks, view<A, 3> out, view<A, 2> lse) {
  apply_sinks<A>(inline_queue{}, on, sinks, out, lse);
}

/// exp(s - lse') delta' of row i.
template <class A, class M>
struct sink_term {
  index_t q_begin;
  view<A const, 1, M> sinks;
  view<A const, 2, M> lse, delta;
  SP_BOTH double operator()(index_t h, index_t i) const {
    A const l = lse(i, h);
    return is_minus_infinity(l) ? 0.0 : double(exp_of(sinks(q_begin + h) - l)) * double(delta(i, h));
  }
};
template <class A, class M>
struct subtract_sum {
  index_t q_begin;
  view<A, 1, M> from;
  SP_BOTH void operator()(index_t h, double sum) const { from(q_begin + h) -= A(sum); }
};

/// dsink_h = - sum over rows of exp(s - lse') delta'; added to what is there. The sum runs over all rows: in double, whatever the type.
template <class A, class Q>
void sink_gradient(Q const& q, heads on, view_on<Q, A const, 1> sinks, view_on<Q, A const, 2> lse, view_on<Q, A const, 2> delta,
                   view_on<Q, A, 1> dsinks) {
  using M = typename Q::memory_type;
  q.sums(on.q_count, lse.extent(0), sink_term<A, M>{on.q_begin, sinks, lse, delta}, subtract_sum<A, M>{on.q_begin, dsinks});
}
template <class A>
void sink_gradient(heads on, view<A const, 1> sinks, view<A const, 2> lse, view<A const, 2> delta, view<A, 1> dsinks) {
  sink_gradient<A>(inline_queue{}, on, sinks, lse, delta, dsinks);
}

/// An accumulate-typed tensor to add into: the caller's own memory where the types agree, scratch that is stored back otherwise.
template <class T, int R, class M = host_memory>
class accumulator {
public:
  using A = accumulate_t<T>;
  accumulator(basic_allocator<M>& scratch, view<T, R, M> target) : target_(target) {
    if constexpr (!std::is_same_v<T, A>) own_ = owned<A, R, M>(scratch, target.extents);
  }
  /// The tensor to add into, zero (or the target's values) at first.
  template <class Q>
  view<A, R, M> begin(Q const& q, bool accumulate) {
    accumulate_ = accumulate;
    if constexpr (std::is_same_v<T, A>) {
      if (!accumulate) sp::fill(q, target_, A{});
      return target_;
    } else {
      sp::fill(q, own_.tensor, A{});
      return own_.tensor;
    }
  }
  template <class Q>
  void finish(Q const& q) {
    if constexpr (!std::is_same_v<T, A>) accumulate_ ? detail::add(q, target_, own_.tensor) : sp::assign(q, target_, own_.tensor);
  }
  view<A, R, M> begin(bool accumulate) { return begin(inline_queue{}, accumulate); }
  void finish() { finish(inline_queue{}); }

private:
  view<T, R, M> target_;
  owned<A, R, M> own_;
  bool accumulate_ = false;
};

} // namespace sp::detail
