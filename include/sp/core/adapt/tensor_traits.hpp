// A foreign tensor as a view: a trait to specialise for it, and the checks that every view from outside passes.
// Rank, extents, overflow, null and alignment are checked before anything reads the tensor; errors name both sides.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>

#include <sp/core/view.hpp>

namespace sp {

/// Specialise this for your tensor; then as_tensor<Rank>(tensor) is a view of it.
///
///     template <> struct sp::tensor_traits<my_tensor> {
///       using element_type = float;      // or deduce it: template <class T> struct sp::tensor_traits<my_tensor<T>>
///       using memory_type = sp::host_memory;
///       static float* data(my_tensor const& t);
///       static int rank(my_tensor const& t);
///       static sp::index_t extent(my_tensor const& t, int d);
///       static sp::index_t stride(my_tensor const& t, int d); // in elements
///     };
template <class Tensor>
struct tensor_traits;

/// A type with a usable tensor_traits.
template <class Tensor>
concept adapted = requires(Tensor const& t, int d) {
  typename tensor_traits<Tensor>::memory_type;
  { tensor_traits<Tensor>::data(t) } -> std::convertible_to<typename tensor_traits<Tensor>::element_type*>;
  { tensor_traits<Tensor>::rank(t) } -> std::convertible_to<int>;
  { tensor_traits<Tensor>::extent(t, d) } -> std::convertible_to<index_t>;
  { tensor_traits<Tensor>::stride(t, d) } -> std::convertible_to<index_t>;
};

/// Checks a view that comes from outside and returns it: no negative extent, no overflow of elements or bytes, and a
/// pointer that is aligned and not null unless the view is empty.
template <class T, int Rank, class M>
view<T, Rank, M> checked_view(view<T, Rank, M> const& v) {
  for (int d = 0; d < Rank; ++d)
    if (v.extent(d) < 0)
      fail({errc::invalid_shape, "extent " + std::to_string(d) + " of a tensor " + shape(v) + " is negative",
            "Pass extents >= 0"});
  if (v.empty()) return v;
  index_t reach = checked_mul(v.elements(), index_t(sizeof(T))), below = 0;
  for (int d = 0; d < Rank; ++d) { // the outermost bytes must be addressable as well, whatever the sign of a stride
    index_t stride = v.stride(d) < 0 ? checked_mul(v.stride(d), -1) : v.stride(d);
    index_t bytes = checked_mul(checked_mul(v.extent(d) - 1, stride), index_t(sizeof(T)));
    reach = checked_add(reach, bytes);
    if (v.stride(d) < 0) below += bytes;
  }
  if (v.data == nullptr)
    fail({errc::bad_pointer, "a tensor " + shape(v) + " has a null pointer", "Pass null only for tensors without elements"});
  if (reinterpret_cast<std::uintptr_t>(v.data) % alignof(T) != 0)
    fail({errc::bad_pointer,
          "the pointer of a tensor " + shape(v) + " is not a multiple of " + std::to_string(alignof(T)) + " bytes",
          "Align the tensor to its element type"});
  if (auto at = reinterpret_cast<std::uintptr_t>(v.data); at < std::uintptr_t(below) || at > UINTPTR_MAX - std::uintptr_t(reach))
    fail({errc::bad_pointer, "the elements of a tensor " + shape(v) + " leave the address space", "Check its strides"});
  return v;
}

namespace detail {

inline void require_rank(index_t found, int expected) {
  if (found != expected)
    fail({errc::invalid_shape,
          "the tensor has " + std::to_string(found) + " dimensions, " + std::to_string(expected) + " are expected",
          "Reshape the tensor or ask for the rank it has"});
}

/// An adapted tensor as it describes itself, unchecked; it must have `Rank` dimensions.
template <int Rank, adapted Tensor>
auto described_view(Tensor const& t) {
  using traits = tensor_traits<Tensor>;
  view<typename traits::element_type, Rank, typename traits::memory_type> v;
  v.data = traits::data(t);
  for (int d = 0; d < Rank; ++d) {
    v.extents[std::size_t(d)] = index_t(traits::extent(t, d));
    v.strides[std::size_t(d)] = index_t(traits::stride(t, d));
  }
  return v;
}

} // namespace detail

/// A tensor of the caller's own type as a view. invalid_shape when it does not have `Rank` dimensions.
template <int Rank, class Tensor>
[[nodiscard]] auto as_tensor(Tensor const& t) {
  static_assert(adapted<Tensor>,
                "sp::as_tensor needs a specialisation of sp::tensor_traits for this type, with element_type, memory_type, "
                "data(t), rank(t), extent(t, d) and stride(t, d)");
  if constexpr (adapted<Tensor>) {
    detail::require_rank(index_t(tensor_traits<Tensor>::rank(t)), Rank);
    return checked_view(detail::described_view<Rank>(t));
  }
}

} // namespace sp
