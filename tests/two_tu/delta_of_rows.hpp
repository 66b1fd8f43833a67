// The delta of some rows, as the translation unit that includes this computes it: target_plain.cpp and target_fused.cpp differ in flags.
// Static and flattened: none of it is taken from the other unit by the linker.
#pragma once

#include <cstdint>
#include <vector>

#include <sp/attention/row_arithmetic.hpp>

template <class T>
[[gnu::flatten]] static std::vector<T> delta_of_rows() {
  constexpr sp::index_t rows = 40, heads = 2, dim = 33;
  std::vector<T> out(rows * heads * dim), dout(out.size()), delta(rows * heads);
  std::uint32_t state = 1;
  auto draw = [&] { return T(std::int32_t(state = state * 1664525u + 1013904223u)) * T(0x1p-30); };
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = draw(), dout[i] = draw();
  sp::view<T const, 3> const o(out.data(), {rows, heads, dim}), g(dout.data(), {rows, heads, dim});
  sp::detail::row_delta<T>(o, g, sp::view<T, 2>(delta.data(), {rows, heads}));
  return delta;
}
