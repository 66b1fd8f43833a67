// Row-wise arithmetic of attention that no kernel needs to know: delta, attention sinks, sums in a wider type.
// Host memory; each function is one pass over its tensors.
#pragma once

#include <sp/core/elementwise.hpp>
#include <sp/core/memory.hpp>
#include <sp/core/real.hpp>
#include <sp/geometry/heads.hpp>

namespace sp::detail {

/// sum + a b with the same bits whatever the target and whatever the compiler fuses: it fuses one loop and not another, depending on
/// strides, and the same row would get different bits on different ranks. The product of two floats is exact in double.
inline double add_product(double sum, float a, float b) { return sum + double(a) * double(b); }
inline double add_product(double sum, double a, double b) {
  double product = a * b; // rounded here, hidden from whoever would fuse it
#if defined(__x86_64__)
  asm("" : "+x"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#else
  double const volatile rounded = product;
  product = rounded;
#endif
  return sum + product;
}

/// delta (rows, heads) = sum over dim of dout * out: the row sum of dP o P in the softmax backward (docs/semantics.md, ring backward).
template <class T, class A = accumulate_t<T>>
void row_delta(view<T const, 3> out, view<T const, 3> dout, view<A, 2> delta) {
  for (index_t i = 0; i < out.extent(0); ++i)
    for (index_t h = 0; h < out.extent(1); ++h) {
      double sum = 0;
      for (index_t d = 0; d < out.extent(2); ++d) sum = add_product(sum, to_acc(out(i, h, d)), to_acc(dout(i, h, d)));
      delta(i, h) = A(sum);
    }
}

/// Sinks, once after the last merge: lse' = logaddexp(lse, s), out' = out exp(lse - lse'). A row that sees no key stays (0, -inf).
template <class A>
void apply_sinks(heads on, view<A const, 1> sinks, view<A, 3> out, view<A, 2> lse) {
  for (index_t i = 0; i < out.extent(0); ++i)
    for (index_t h = 0; h < out.extent(1); ++h) {
      A s = sinks(on.q_begin + h), l = lse(i, h);
      if (is_minus_infinity(l)) continue;
      A m = s > l ? s : l;
      A joined = m + log1p_of(exp_of(-abs_of(s - l)));
      A weight = exp_of(l - joined);
      for (index_t d = 0; d < out.extent(2); ++d) out(i, h, d) *= weight;
      lse(i, h) = joined;
    }
}

/// dsink_h = - sum over rows of exp(s - lse') delta'; added to what is there. The sum runs over all rows: in double, whatever the type.
template <class A>
void sink_gradient(heads on, view<A const, 1> sinks, view<A const, 2> lse, view<A const, 2> delta, view<A, 1> dsinks) {
  for (index_t h = 0; h < on.q_count; ++h) {
    A s = sinks(on.q_begin + h);
    double sum = 0;
    for (index_t i = 0; i < lse.extent(0); ++i)
      if (!is_minus_infinity(lse(i, h))) sum += double(exp_of(s - lse(i, h))) * double(delta(i, h));
    dsinks(on.q_begin + h) -= A(sum);
  }
}

/// An accumulate-typed tensor to add into: the caller's own memory where the types agree, scratch that is stored back otherwise.
template <class T, int R>
class accumulator {
public:
  using A = accumulate_t<T>;
  accumulator(allocator& scratch, view<T, R> target) : target_(target) {
    if constexpr (!std::is_same_v<T, A>) own_ = owned<A, R>(scratch, target.extents);
  }
  /// The tensor to add into, zero (or the target's values) at first.
  view<A, R> begin(bool accumulate) {
    accumulate_ = accumulate;
    if constexpr (std::is_same_v<T, A>) {
      if (!accumulate) fill(target_, A{});
      return target_;
    } else {
      fill(own_.tensor, A{});
      return own_.tensor;
    }
  }
  void finish() {
    if constexpr (!std::is_same_v<T, A>) accumulate_ ? add(target_, own_.tensor) : assign(target_, own_.tensor);
  }

private:
  view<T, R> target_;
  owned<A, R> own_;
  bool accumulate_ = false;
};

} // namespace sp::detail
