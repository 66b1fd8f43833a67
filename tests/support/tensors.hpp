// Vectors seen as tensors, and values whose bits tell where they came from: for tests that compare data movement bitwise.
// Nothing here owns or computes; sp::view does not copy.
#pragma once

#include <cstring>
#include <random>
#include <vector>

#include <sp/core/view.hpp>

namespace support {

/// A row-major tensor on a vector: tensor<3>(v, {rows, heads, dim}).
template <int Rank, class T>
sp::view<T, Rank> tensor(std::vector<T>& v, std::array<sp::index_t, std::size_t(Rank)> extents) {
  return {v.data(), extents};
}
template <int Rank, class T>
sp::view<T const, Rank> tensor(std::vector<T> const& v, std::array<sp::index_t, std::size_t(Rank)> extents) {
  return {v.data(), extents};
}

/// n values of random bits, NaNs and infinities among them.
template <class T>
std::vector<T> random_bits(sp::index_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<T> v(static_cast<std::size_t>(n));
  for (T& x : v) {
    unsigned char bytes[sizeof(T)];
    for (unsigned char& b : bytes) b = static_cast<unsigned char>(generator());
    std::memcpy(static_cast<void*>(&x), bytes, sizeof(T));
  }
  return v;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(static_cast<void const*>(a.data()), static_cast<void const*>(b.data()),
                                                           a.size() * sizeof(T)) == 0);
}

} // namespace support
