// std::mdspan, Kokkos::mdspan and what looks like them as views; recognised by their members, no header of theirs is needed.
// What comes in is checked as every foreign tensor is.
#pragma once

#include <concepts>

#include <sp/core/adapt/tensor_traits.hpp>

namespace sp {

/// What std::mdspan offers: static rank(), extent(i), stride(i) and a plain pointer.
template <class M>
concept mdspan_like = requires(M const& m, std::size_t d) {
  typename M::element_type;
  { M::rank() } -> std::convertible_to<std::size_t>;
  { m.extent(d) } -> std::convertible_to<index_t>;
  { m.stride(d) } -> std::convertible_to<index_t>;
  { m.data_handle() } -> std::convertible_to<typename M::element_type*>;
};

namespace detail {

/// The same for what looks like std::mdspan.
template <class Memory, mdspan_like M>
auto described_mdspan(M const& m) {
  view<typename M::element_type, int(M::rank()), Memory> v;
  v.data = m.data_handle();
  for (std::size_t d = 0; d < std::size_t(M::rank()); ++d) {
    v.extents[d] = index_t(m.extent(d));
    v.strides[d] = index_t(m.stride(d));
  }
  return v;
}

} // namespace detail

/// std::mdspan, Kokkos::mdspan and what looks like them.
template <class Memory = host_memory, mdspan_like M>
[[nodiscard]] auto from_mdspan(M const& m) {
  return checked_view(detail::described_mdspan<Memory>(m));
}

} // namespace sp
