// The logistic function and silu, x / (1 + e^-x), with its derivative, as compilers compute them for many elements at once.
// No branches and no calls; relative errors are a few units in the last place, NaN stays NaN in products with x.
#pragma once

#include <sp/core/dtype.hpp>

namespace sp::detail {

/// 1 / N!
template <class A, int N>
inline constexpr A inverse_factorial = A(1);
template <class A, int N>
  requires(N > 1)
inline constexpr A inverse_factorial<A, N> = inverse_factorial<A, N - 1> / A(N);

/// The sum of r^(n - N) / n! over n >= N, as far as it counts for N = 0 and |r| <= ln 2 / 2: Taylor's series of e^r.
template <int N, class A>
SP_BOTH constexpr A exp_series(A r) {
  constexpr int last = sizeof(A) == 8 ? 13 : 7; // the next term is below half a unit in the last place of the sum
  if constexpr (N == last)
    return inverse_factorial<A, N>;
  else
    return inverse_factorial<A, N> + r * exp_series<N + 1>(r);
}

/// 1 / (1 + e^-x), 0 where it would be below the smallest normal number; for NaN any number in [0, 1]. Limits are those of bits, as
/// integers: comparisons of numbers become branches where a compiler follows what their outcome means for the rest.
template <class A>
SP_BOTH constexpr A sigmoid(A x) {
  constexpr bool wide = sizeof(A) == 8;
  constexpr A high = wide ? A(6.93145751953125e-1) : A(0.693359375); // high + low is ln 2, and n high is exact
  constexpr A low = wide ? A(1.42860682030941723212e-6) : A(-2.12194440e-4);
  using bits = bits_t<A>;
  constexpr bits most = __builtin_bit_cast(bits, wide ? A(708) : A(87.3));
  bits const u = __builtin_bit_cast(bits, x), size = u & ~sign_bit<A>, other_sign = ~u & sign_bit<A>;
  A const y = __builtin_bit_cast(A, (size < most ? size : most) | other_sign); // -x within the limits
  A const half = __builtin_bit_cast(A, __builtin_bit_cast(bits, A(0.5)) | other_sign);
  auto const n = static_cast<std::int32_t>(y * A(1.44269504088896340736) + half);
  A const f = static_cast<A>(n), r = (y - f * high) - f * low;
  A const power = __builtin_bit_cast(A, static_cast<bits>(n + (wide ? 1023 : 127)) << mantissa_bits<A>);
  A const s = A(1) / (A(1) + exp_series<0>(r) * power);
  return __builtin_bit_cast(A, __builtin_bit_cast(bits, s) & (bits{0} - bits{u <= (sign_bit<A> | most)}));
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
