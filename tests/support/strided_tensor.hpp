// A tensor (rows, heads, width) that owns its memory, in one of twelve memory orders and between canaries.
// Kernels and schedules must take any strides; intact() says whether somebody wrote in front of it or behind it.
#pragma once

#include <vector>

#include <sp/core/view.hpp>

namespace support {

template <class T>
struct strided_tensor {
  static constexpr sp::index_t guard = 8; ///< canaries on each side
  std::vector<T> data;
  sp::view<T, 3> v;

  /// order 0: rows outermost, as usual; 1: heads outermost; 2: rows innermost; + 3: rows backwards; + 6: width backwards; and so on.
  strided_tensor(sp::index_t rows, sp::index_t heads, sp::index_t width, unsigned order, T fill)
      : data(std::size_t(rows * heads * width + 2 * guard), fill), v(data.data() + guard, {rows, heads, width}) {
    if (order % 3 == 1) v.strides = {width, rows * width, 1};
    if (order % 3 == 2) v.strides = {1, rows * width, rows};
    if (order / 3 % 2) turn(0);
    if (order / 6 % 2) turn(2);
    for (sp::index_t i = 0; i < guard; ++i) data[std::size_t(i)] = data[data.size() - 1 - std::size_t(i)] = T(canary);
  }
  strided_tensor(strided_tensor&&) = default; // v stays where it is: a vector that moves keeps its memory
  strided_tensor(strided_tensor const&) = delete;

  sp::view<T const, 3> read() const { return v; }
  bool intact() const {
    auto const whole = [](T x) { return float(x) == float(T(canary)); };
    for (sp::index_t i = 0; i < guard; ++i)
      if (!whole(data[std::size_t(i)]) || !whole(data[data.size() - 1 - std::size_t(i)])) return false;
    return true;
  }

private:
  /// The same memory from its other end.
  void turn(std::size_t d) {
    v.data += sp::max(v.extents[d] - 1, 0) * v.strides[d];
    v.strides[d] = -v.strides[d];
  }
  static constexpr float canary = -12345;
};

} // namespace support
