// The logistic function and silu, x / (1 + e^-x), with its derivative, as compilers compute them for many elements at once.
// No branches and no calls; relative errors are a few units in the last place, NaN stays NaN in products with x.
#pragma once

#include <sp/core/dtype.hpp>

namespace sp::detail {

/// Taylor's series of e^r from r^N / N! on, over r^(N-1) / (N-1)!; |r| <= ln 2 / 2.
template <int N, class A>
SP_BOTH constexpr A exp_series(A r) {
  if constexpr (N > (sizeof(A) == 8 ? 13 : 7)) // then the next term is below half a unit in the last place
    return A(1);
  else
    return A(1) + r * (A(1) / A(N)) * exp_series<N + 1>(r);
}

/// 1 / (1 + e^-x), 0 where it would be below the smallest normal number; for NaN any number in [0, 1].
template <class A>
SP_BOTH constexpr A sigmoid(A x) {
  constexpr bool wide = sizeof(A) == 8;
  constexpr A most = wide ? A(708) : A(87.3);
  constexpr A high = wide ? A(6.93145751953125e-1) : A(0.693359375); // high + low is ln 2, and n high is exact
  constexpr A low = wide ? A(1.42860682030941723212e-6) : A(-2.12194440e-4);
  A y = -x > -most ? -x : -most;
  y = y < most ? y : most;
  auto const n = static_cast<std::int32_t>(y * A(1.44269504088896340736) + (y < 0 ? A(-0.5) : A(0.5)));
  A const f = static_cast<A>(n), r = (y - f * high) - f * low;
  using bits = std::conditional_t<wide, std::int64_t, std::int32_t>;
  A const power = __builtin_bit_cast(A, static_cast<bits>(static_cast<bits>(n + (wide ? 1023 : 127)) << mantissa_bits<A>));
  A const s = A(1) / (A(1) + exp_series<1>(r) * power);
  return x < -most ? A(0) : s;
}

template <class A>
SP_BOTH constexpr A silu(A x) {
  return x * sigmoid(x);
}
template <class A>
SP_BOTH constexpr A silu_derivative(A x) {
  A const s = sigmoid(x);
  return s * (A(1) + x * (A(1) - s));
}

} // namespace sp::detail
