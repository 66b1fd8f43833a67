// Element types of tensors: float, double and two 16-bit formats stored here, bf16 and fp16.
// Conversions are constexpr and round once, to nearest even; NaN, infinities and subnormals follow IEEE 754. Sums run in accumulate_t.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <sp/core/compiler.hpp>

namespace sp {

namespace detail {

/// x as float, rounded to odd when inexact: a later rounding to a 16-bit format then gives what one rounding of x gives.
SP_BOTH constexpr float odd_float(double x) {
  // The range is cut first: casting a double beyond float's range is undefined, and all of these round alike afterwards.
  constexpr double largest = 0x1.fffffep127;
  if (x > largest && x <= 0x1.fffffffffffffp1023) return 0x1.fffffep127f;
  if (x < -largest && x >= -0x1.fffffffffffffp1023) return -0x1.fffffep127f;
  float f = static_cast<float>(x);
  if (static_cast<double>(f) == x || x != x) return f;
  auto bits = __builtin_bit_cast(std::uint32_t, f);
  if (bits & 1u) return f;
  if (f == 0.0f) return __builtin_bit_cast(float, __builtin_bit_cast(std::uint64_t, x) >> 63 ? 0x80000001u : 1u);
  bool beyond = f > 0 ? static_cast<double>(f) > x : static_cast<double>(f) < x; // rounded away from zero
  return __builtin_bit_cast(float, beyond ? bits - 1 : bits + 1);
}

SP_BOTH constexpr std::uint16_t bf16_bits(float f) {
  auto u = __builtin_bit_cast(std::uint32_t, f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(u >> 16 | 0x40u); // NaN stays NaN: keep it quiet
  return static_cast<std::uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

SP_BOTH constexpr float bf16_value(std::uint16_t b) { return __builtin_bit_cast(float, std::uint32_t{b} << 16); }

SP_BOTH constexpr std::uint16_t fp16_bits(float f) {
  auto u = __builtin_bit_cast(std::uint32_t, f);
  std::uint32_t sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
  std::uint32_t r = 0;
  if (a > 0x7f800000u)
    r = 0x7e00u | (a >> 13 & 0x3ffu); // NaN
  else if (a >= 0x477ff000u)
    r = 0x7c00u;             // 65520 and more round to infinity
  else if (a >= 0x38800000u) // a normal number: rebias the exponent, then round the 13 bits that go
    r = (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13;
  else if (a > 0x33000000u) { // subnormal: a multiple of 2^-24; half of it and less round to zero
    std::uint32_t mantissa = (a & 0x7fffffu) | 0x800000u, shift = 126u - (a >> 23);
    r = mantissa >> shift;
    std::uint32_t rest = mantissa & ((1u << shift) - 1u), tie = 1u << (shift - 1u);
    if (rest > tie || (rest == tie && (r & 1u))) ++r;
  }
  return static_cast<std::uint16_t>(sign | r);
}

SP_BOTH constexpr float fp16_value(std::uint16_t h) {
  std::uint32_t sign = (h & 0x8000u) << 16, a = h & 0x7fffu;
  if (a >= 0x7c00u) return __builtin_bit_cast(float, sign | 0x7f800000u | (a & 0x3ffu) << 13);
  if (a >= 0x0400u) return __builtin_bit_cast(float, sign | ((a << 13) + 0x38000000u));
  float f = static_cast<float>(a) * 0x1p-24f; // subnormals and zero: exact
  return sign ? -f : f;
}

/// What both 16-bit formats share: storage, conversions and assigning operators. Values compute as float.
template <class Self, std::uint16_t (*Encode)(float), float (*Decode)(std::uint16_t)>
struct half_width {
  std::uint16_t bits = 0;

  constexpr half_width() = default;
  template <class Number>
  requires std::is_arithmetic_v<Number> SP_BOTH explicit constexpr half_width(Number x) : bits(encode(x)) {}

  SP_BOTH constexpr operator float() const { return Decode(bits); }

  SP_BOTH friend constexpr Self& operator+=(Self& a, float b) { return a = Self(static_cast<float>(a) + b); }
  SP_BOTH friend constexpr Self& operator-=(Self& a, float b) { return a = Self(static_cast<float>(a) - b); }
  SP_BOTH friend constexpr Self& operator*=(Self& a, float b) { return a = Self(static_cast<float>(a) * b); }
  SP_BOTH friend constexpr Self& operator/=(Self& a, float b) { return a = Self(static_cast<float>(a) / b); }

private:
  template <class Number>
  SP_BOTH static constexpr std::uint16_t encode(Number x) {
    if constexpr (std::is_same_v<Number, float>)
      return Encode(x);
    else
      return Encode(odd_float(static_cast<double>(x)));
  }
};

} // namespace detail

/// bfloat16: 8 bits of exponent, 7 of mantissa.
struct bf16 : detail::half_width<bf16, detail::bf16_bits, detail::bf16_value> {
  using half_width::half_width;
  SP_BOTH static constexpr bf16 from_bits(std::uint16_t b) {
    bf16 r;
    r.bits = b;
    return r;
  }
};

/// IEEE binary16: 5 bits of exponent, 10 of mantissa.
struct fp16 : detail::half_width<fp16, detail::fp16_bits, detail::fp16_value> {
  using half_width::half_width;
  SP_BOTH static constexpr fp16 from_bits(std::uint16_t b) {
    fp16 r;
    r.bits = b;
    return r;
  }
};

static_assert(sizeof(bf16) == 2 && sizeof(fp16) == 2 && std::is_trivially_copyable_v<bf16> && std::is_trivially_copyable_v<fp16>);

/// What a tensor that takes part in arithmetic may hold.
template <class T>
concept element = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, bf16> || std::same_as<T, fp16>;

namespace detail {
template <class T>
struct accumulate {
  using type = float;
};
template <>
struct accumulate<double> {
  using type = double;
};
} // namespace detail

/// The type in which sums over T run: double for double, float for everything else.
template <class T>
  requires element<std::remove_cv_t<T>>
using accumulate_t = typename detail::accumulate<std::remove_cv_t<T>>::type;

namespace detail {

// What is infinite and what is NaN is asked of bits. Compiled with -Ofast, a program promises that no number is either, and the
// compiler answers x != x and x == infinity in advance. By reference: the promise holds for what functions take and return by value.

template <class T>
using bits_t =
    std::conditional_t<sizeof(T) == 8, std::uint64_t, std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>>;
template <class T>
inline constexpr int mantissa_bits = std::is_same_v<T, double>  ? 52
                                     : std::is_same_v<T, float> ? 23
                                     : std::is_same_v<T, bf16>  ? 7
                                                                : 10;
template <class T>
inline constexpr auto sign_bit = static_cast<bits_t<T>>(bits_t<T>{1} << (8 * sizeof(T) - 1));
/// Of plus infinity; what is larger, without its sign, is NaN.
template <class T>
inline constexpr auto infinity_bits = static_cast<bits_t<T>>(sign_bit<T> - (bits_t<T>{1} << mantissa_bits<T>));

template <element T>
SP_BOTH constexpr bits_t<T> magnitude_bits(T const& x) {
  return static_cast<bits_t<T>>(__builtin_bit_cast(bits_t<T>, x) & ~sign_bit<T>);
}
template <element T>
SP_BOTH constexpr bool is_negative(T const& x) {
  return (__builtin_bit_cast(bits_t<T>, x) & sign_bit<T>) != 0;
}
template <element T>
SP_BOTH constexpr bool is_nan(T const& x) {
  return magnitude_bits(x) > infinity_bits<T>;
}
/// Neither NaN nor an infinity.
template <element T>
SP_BOTH constexpr bool is_finite(T const& x) {
  return magnitude_bits(x) < infinity_bits<T>;
}
template <element T>
SP_BOTH constexpr bool is_minus_infinity(T const& x) {
  return __builtin_bit_cast(bits_t<T>, x) == (sign_bit<T> | infinity_bits<T>);
}

/// Below every other number; exp of it is 0.
template <class A>
inline constexpr A minus_infinity = __builtin_bit_cast(A, static_cast<bits_t<A>>(sign_bit<A> | infinity_bits<A>));

/// Elements that follow each other: a device loads and stores them at once, up to 16 bytes.
template <class T, int N>
struct [[gnu::may_alias]] alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) elements_together {
  T of[std::size_t(N)];
};

} // namespace detail

/// An element as the type its sums use; exact.
template <element T>
SP_BOTH constexpr accumulate_t<T> to_acc(T x) {
  return static_cast<accumulate_t<T>>(x);
}

/// A sum as an element, rounded once to nearest even.
template <element T>
SP_BOTH constexpr T from_acc(accumulate_t<T> x) {
  return static_cast<T>(x);
}

/// "bf16", for messages.
template <element T>
constexpr char const* name() {
  if constexpr (std::same_as<T, float>) return "float";
  if constexpr (std::same_as<T, double>) return "double";
  if constexpr (std::same_as<T, bf16>) return "bf16";
  if constexpr (std::same_as<T, fp16>) return "fp16";
}

} // namespace sp
