// The caller's tensors as views: sp::view, anything mdspan-like, or a type with tensor_traits, mixed freely in one call.
// Element types of one call must agree; the sentence of the static_assert says so.
#pragma once

#include <sp/attention/call/argument_checks.hpp>
#include <sp/core/adapt.hpp>

namespace sp {

namespace detail {

template <class>
inline constexpr bool is_view = false;
template <class T, int R, class M>
inline constexpr bool is_view<view<T, R, M>> = true;

/// Any tensor as a view of rank R.
template <int R, class Tensor>
auto tensor(Tensor const& t) {
  if constexpr (is_view<Tensor>) {
    static_assert(Tensor::rank == R, "sp: this tensor has another number of dimensions; attention takes (tokens, heads, dim).");
    return t;
  } else if constexpr (mdspan_like<Tensor> && !adapted<Tensor>) // what the user says of a type wins over what it looks like
    return from_mdspan(t);
  else
    return as_tensor<R>(t);
}

} // namespace detail

/// Element type of a tensor, const removed.
template <class Tensor>
using element_of = typename decltype(detail::tensor<3>(std::declval<Tensor const&>()))::value_type;

namespace detail {

template <class T, class Tensor>
view<T, 3> operand(Tensor const& t) {
  auto v = tensor<3>(t);
  static_assert(
      std::is_convertible_v<decltype(v), view<T, 3>>,
      "sp: the tensors of one attention call must have one element type in host memory, and outputs must not be const.");
  return v;
}

template <class T, class Q, class K, class V, class O>
forward_io<T> forward_operands(Q const& q, K const& k, V const& v, O const& out, attention_extras<T> const& e) {
  forward_io<T> io{{}, operand<T const>(q), operand<T const>(k), operand<T const>(v), operand<T>(out), e.sinks};
  check_heads(io.q, io.k, io.v);
  io.on = all_heads(io.q.extent(1), io.k.extent(1));
  return io;
}

template <class T, class Q, class K, class V, class O, class DO, class DQ, class DK, class DV>
backward_io<T> backward_operands(Q const& q, K const& k, V const& v, O const& out, DO const& dout, DQ const& dq, DK const& dk,
                                 DV const& dv, attention_extras<T> const& e) {
  backward_io<T> io{{},
                    operand<T const>(q),
                    operand<T const>(k),
                    operand<T const>(v),
                    operand<T const>(out),
                    operand<T const>(dout),
                    operand<T>(dq),
                    operand<T>(dk),
                    operand<T>(dv),
                    e};
  check_heads(io.q, io.k, io.v);
  io.on = all_heads(io.q.extent(1), io.k.extent(1));
  return io;
}

} // namespace detail
} // namespace sp
