// The integer type of all extents, strides and positions, with checked arithmetic and the one cut rule.
// Everything is constexpr; overflow is an sp::error (size_overflow), never a wrapped number.
#pragma once

#include <cstdint>
#include <limits>

#include <sp/core/compiler.hpp>
#include <sp/core/error.hpp>

namespace sp {

/// Extents, strides, positions and counts. 64 bits everywhere: long contexts pass 2^31 elements early.
using index = std::int64_t;

/// A bound that no position difference reaches; it leaves room for sums without overflow.
inline constexpr index unbounded = index{1} << 60;

namespace detail {
[[noreturn]] inline void overflow(index a, char op, index b) {
  fail({errc::size_overflow, std::to_string(a) + " " + op + " " + std::to_string(b) + " passes int64",
        "Check the extents: no tensor is that large"});
}
} // namespace detail

/// a + b, or size_overflow.
constexpr index checked_add(index a, index b) {
  index r = 0;
  if (__builtin_add_overflow(a, b, &r)) detail::overflow(a, '+', b);
  return r;
}

/// a * b, or size_overflow.
constexpr index checked_mul(index a, index b) {
  index r = 0;
  if (__builtin_mul_overflow(a, b, &r)) detail::overflow(a, '*', b);
  return r;
}

/// Quotient rounded towards minus infinity; b != 0.
constexpr index floor_div(index a, index b) { return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0); }

/// Quotient rounded towards plus infinity; b != 0.
constexpr index ceil_div(index a, index b) { return -floor_div(-a, b); }

/// The one cut rule, for tokens and heads alike: part p of n items over `parts` is [cut(n, p, parts), cut(n, p + 1, parts)).
constexpr index cut(index n, index p, index parts) {
  // floor(p n / parts) without overflow: n = a parts + b gives p a + floor(p b / parts)
  return p * (n / parts) + p * (n % parts) / parts;
}

/// The smaller of two.
constexpr index min(index a, index b) { return a < b ? a : b; }
/// The larger of two.
constexpr index max(index a, index b) { return a < b ? b : a; }

} // namespace sp
