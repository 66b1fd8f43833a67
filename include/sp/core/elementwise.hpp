// Loops over the elements of host tensors: fill, and assignment and addition across element types and strides.
// Plain and recursive over the rank; anything larger than a row's bookkeeping belongs into a backend.
#pragma once

#include <sp/core/dtype.hpp>
#include <sp/core/view.hpp>

namespace sp {

namespace detail {

/// Applies f(a, b) to the elements of two views of one shape, row-major.
template <class A, class B, int R, class M, class F>
void for_each_pair(view<A, R, M> a, view<B, R, M> b, F&& f) {
  if constexpr (R == 1) {
    for (index_t i = 0; i < a.extent(0); ++i) f(a(i), b(i));
  } else {
    for (index_t i = 0; i < a.extent(0); ++i) {
      view<A, R - 1, M> x;
      view<B, R - 1, M> y;
      x.data = a.data + i * a.stride(0);
      y.data = b.data + i * b.stride(0);
      for (int d = 1; d < R; ++d) {
        x.extents[std::size_t(d - 1)] = y.extents[std::size_t(d - 1)] = a.extent(d);
        x.strides[std::size_t(d - 1)] = a.stride(d);
        y.strides[std::size_t(d - 1)] = b.stride(d);
      }
      for_each_pair(x, y, f);
    }
  }
}

} // namespace detail

/// Sets every element of a host tensor.
template <class T, int R>
void fill(view<T, R> v, std::type_identity_t<T> value) {
  detail::for_each_pair(v, v, [&](T& x, T&) { x = value; });
}

/// Element by element into a host tensor of another element type or other strides.
template <class To, class From, int R>
void assign(view<To, R> to, view<From, R> from) {
  detail::for_each_pair(to, from, [](To& x, From& y) { x = from_acc<To>(static_cast<accumulate_t<To>>(to_acc(y))); });
}

namespace detail {
/// to += from, in the type of to's sums.
template <class To, class From, int R>
void add(view<To, R> to, view<From, R> from) {
  using A = accumulate_t<To>;
  for_each_pair(to, from, [](To& x, From& y) { x = from_acc<To>(to_acc(x) + static_cast<A>(to_acc(y))); });
}
} // namespace detail

} // namespace sp
