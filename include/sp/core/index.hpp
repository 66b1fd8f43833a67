// The integer type of all extents, strides and positions, with checked arithmetic and the one cut rule.
// Everything is constexpr; overflow is an sp::error (size_overflow), never a wrapped number.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include <sp/core/compiler.hpp>
#include <sp/core/error.hpp>

namespace sp {

/// Extents, strides, positions and counts. 64 bits everywhere: long contexts pass 2^31 elements early.
using index_t = std::int64_t;

/// A bound that no position difference reaches; it leaves room for sums without overflow.
inline constexpr index_t unbounded = index_t{1} << 60;

namespace detail {
[[noreturn]] inline void overflow(index_t a, char op, index_t b) {
  fail({errc::size_overflow, std::to_string(a) + " " + op + " " + std::to_string(b) + " passes int64",
        "Check the extents: no tensor is that large"});
}
} // namespace detail

/// a + b, or size_overflow.
constexpr index_t checked_add(index_t a, index_t b) {
  index_t r = 0;
  if (__builtin_add_overflow(a, b, &r)) detail::overflow(a, '+', b);
  return r;
}

/// a * b, or size_overflow.
constexpr index_t checked_mul(index_t a, index_t b) {
  index_t r = 0;
  if (__builtin_mul_overflow(a, b, &r)) detail::overflow(a, '*', b);
  return r;
}

/// Quotient rounded towards minus infinity; b != 0.
SP_BOTH constexpr index_t floor_div(index_t a, index_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0); }

/// Quotient rounded towards plus infinity; b != 0.
SP_BOTH constexpr index_t ceil_div(index_t a, index_t b) { return -floor_div(-a, b); }

/// The smallest multiple of `multiple` that is not below n; multiple > 0.
template <class Integer>
  requires std::is_integral_v<Integer>
constexpr Integer round_up(Integer n, std::type_identity_t<Integer> multiple) {
  Integer rest = n % multiple; // takes the sign of n
  return rest > 0 ? n + (multiple - rest) : n - rest;
}

/// The one cut rule, for tokens and heads alike: part p of n items over `parts` is [cut(n, p, parts), cut(n, p + 1, parts)).
SP_BOTH constexpr index_t cut(index_t n, index_t p, index_t parts) {
  // floor(p n / parts) without overflow: n = a parts + b gives p a + floor(p b / parts)
  return p * (n / parts) + p * (n % parts) / parts;
}

/// The smaller of two.
SP_BOTH constexpr index_t min(index_t a, index_t b) { return a < b ? a : b; }
/// The larger of two.
SP_BOTH constexpr index_t max(index_t a, index_t b) { return a < b ? b : a; }

} // namespace sp
