// Tensors whose strides count bytes and whose fastest dimension comes first, as in ggml, as row-major views.
// Dimensions beyond the rank must be 1 and strides whole elements; errors name the numbers.
#pragma once

#include <string>
#include <type_traits>

#include <sp/core/adapt/tensor_traits.hpp>

namespace sp {

/// A tensor with byte strides and its fastest dimension first (ggml: ne, nb) as a row-major view: extent(0) is the slowest of
/// the first Rank dimensions; the others must be 1. `ne` and `nb` are arrays (or vectors, spans) of integers. Const data need a const T.
template <class T, int Rank, class Memory = host_memory, class Extents, class Strides>
[[nodiscard]] view<T, Rank, Memory> from_reversed(std::conditional_t<std::is_const_v<T>, void const, void>* data,
                                                  Extents const& ne, Strides const& nb) {
  std::size_t dims = std::size(ne);
  if (dims < std::size_t(Rank) || std::size(nb) != dims)
    fail({errc::invalid_shape,
          std::to_string(dims) + " extents and " + std::to_string(std::size(nb)) + " strides for a view of rank " +
              std::to_string(Rank),
          "Give one byte stride per extent and at least as many as the rank"});
  for (std::size_t i = std::size_t(Rank); i < dims; ++i)
    if (index_t(ne[i]) != 1)
      fail({errc::invalid_shape,
            "dimension " + std::to_string(i) + " has extent " + std::to_string(ne[i]) + ", a view of rank " +
                std::to_string(Rank) + " needs 1 there",
            "Ask for a higher rank or narrow the tensor"});
  view<T, Rank, Memory> v;
  for (std::size_t i = 0; i < std::size_t(Rank); ++i) {
    index_t bytes = index_t(nb[i]), at = index_t(Rank - 1) - index_t(i);
    if (bytes % index_t(sizeof(T)) != 0 && index_t(ne[i]) > 1)
      fail({errc::invalid_shape,
            "byte stride " + std::to_string(bytes) + " of dimension " + std::to_string(i) + " is not a multiple of " +
                std::to_string(sizeof(T)) + ", the size of an element",
            "Ask for the element type the tensor has"});
    v.extents[std::size_t(at)] = index_t(ne[i]);
    v.strides[std::size_t(at)] = bytes / index_t(sizeof(T));
  }
  v.data = static_cast<T*>(data);
  return checked_view(v);
}

} // namespace sp
