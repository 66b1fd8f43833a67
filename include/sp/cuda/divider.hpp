// Division of 31-bit numbers by one divisor as a multiplication, for kernels that turn a number into indices.
// Exact for every number below 2^31 and every divisor from 1 to 2^31 - 1.
#pragma once

#include <bit>
#include <cstdint>

#include <sp/core/compiler.hpp>

namespace sp::detail {

/// With s = ceil(log2 d) and magic = ceil(2^(31+s) / d), n * magic / 2^(31+s) exceeds n / d by less than 1 / d. (Granlund and Montgomery,
/// Division by Invariant Integers using Multiplication, 1994)
struct divider {
  std::uint32_t divisor = 1, magic = std::uint32_t(1) << 31, shift = 31;

  constexpr divider() = default;
  constexpr explicit divider(std::uint32_t d) : divisor(d), shift(31 + std::uint32_t(std::bit_width(d - 1))) {
    magic = std::uint32_t(((std::uint64_t(1) << shift) + d - 1) / d);
  }
  [[nodiscard]] SP_BOTH constexpr std::uint32_t quotient(std::uint32_t n) const {
    return std::uint32_t(std::uint64_t(n) * magic >> shift);
  }
};

} // namespace sp::detail
