// A strided, non-owning view of a caller's tensor: pointer, int64 extents, element strides, static rank, memory tag.
// It never allocates and never frees; views of different memories do not convert into each other.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <type_traits>

#include <sp/core/index.hpp>

namespace sp {

/// Memory that this process's CPU reads and writes.
struct host_memory {};
/// Memory of a device: its addresses mean nothing to this process's CPU.
struct device_memory {};

/// A tensor that somebody else owns. Strides count elements, may be 0 (broadcast) or negative.
template <class T, int Rank, class Memory = host_memory>
struct view {
  using element_type = T;
  using value_type = std::remove_const_t<T>;
  using memory_type = Memory;
  static constexpr int rank = Rank;

  /// One number for every dimension.
  using numbers = std::array<index_t, std::size_t(Rank)>;

  static_assert(std::is_object_v<T>, "sp: a view needs to know its elements; cast a void pointer to the type of the tensor.");

  T* data = nullptr;
  numbers extents{};
  numbers strides{};

  constexpr view() = default;
  /// Row-major, densely packed.
  constexpr view(T* p, numbers e) : data(p), extents(e) {
    index_t s = 1;
    for (int d = Rank; d-- > 0;) {
      strides[std::size_t(d)] = s;
      s = checked_mul(s, max(e[std::size_t(d)], 1));
    }
  }
  /// The same from extents one by one: view(p, tokens, heads, dim).
  template <class... I>
    requires(sizeof...(I) == Rank && (std::is_integral_v<I> && ...))
  constexpr view(T* p, I... e) : view(p, numbers{index_t(e)...}) {}
  constexpr view(T* p, numbers e, numbers s) : data(p), extents(e), strides(s) {}

  /// A view of values converts to a view of const values.
  template <class U>
    requires(std::is_same_v<U, T const> && !std::is_const_v<T>)
  constexpr operator view<U, Rank, Memory>() const { return {data, extents, strides}; }

  [[nodiscard]] SP_BOTH constexpr index_t extent(int d) const noexcept { return SP_ENTRIES(extents)[std::size_t(d)]; }
  [[nodiscard]] SP_BOTH constexpr index_t stride(int d) const noexcept { return SP_ENTRIES(strides)[std::size_t(d)]; }

  template <class... I>
    requires(sizeof...(I) == Rank)
  [[nodiscard]] SP_BOTH constexpr index_t offset(I... i) const noexcept {
    index_t at = 0;
    std::size_t d = 0;
    ((at += SP_ENTRIES(strides)[d++] * index_t(i)), ...);
    return at;
  }
  template <class... I>
    requires(sizeof...(I) == Rank)
  [[nodiscard]] SP_BOTH constexpr T& operator()(I... i) const noexcept { return data[offset(i...)]; }

  [[nodiscard]] constexpr index_t elements() const {
    index_t n = 1;
    for (index_t e : extents) n = checked_mul(n, e);
    return n;
  }
  [[nodiscard]] constexpr bool empty() const noexcept {
    for (index_t e : extents)
      if (e == 0) return true;
    return false;
  }
  /// Elements follow each other without holes in row-major order.
  [[nodiscard]] constexpr bool dense() const noexcept {
    index_t s = 1;
    for (int d = Rank; d-- > 0;) {
      if (extent(d) != 1 && stride(d) != s) return false;
      s *= extent(d);
    }
    return true;
  }

  /// The part [begin, begin + count) of dimension d, taking every `step`-th entry.
  [[nodiscard]] constexpr view narrow(int d, index_t begin, index_t count, index_t step = 1) const {
    view r = *this;
    if (count > 0 && data) r.data += begin * stride(d); // null stays null: an optional operand may be narrowed
    r.extents[std::size_t(d)] = count;
    r.strides[std::size_t(d)] = stride(d) * step;
    return r;
  }
  /// Rows [begin, begin + count) of the first dimension.
  [[nodiscard]] constexpr view rows(index_t begin, index_t count, index_t step = 1) const {
    return narrow(0, begin, count, step);
  }
};

template <class T, std::size_t Rank>
view(T*, std::array<index_t, Rank>) -> view<T, int(Rank), host_memory>;
template <class T, class... I>
  requires(std::is_integral_v<I>&&...)
view(T*, I...)
->view<T, int(sizeof...(I)), host_memory>;

namespace detail {
/// The one sentence for tensors between which rows are moved, From being read and To written.
template <class From, class To>
constexpr bool require_rows_move() {
  static_assert(std::is_same_v<std::remove_const_t<From>, To>,
                "sp: rows move between tensors of one element type, and the tensor that is written must not be const.");
  return true;
}
} // namespace detail

/// "(4096, 8, 64)", for messages.
template <class T, int Rank, class M>
[[nodiscard]] std::string shape(view<T, Rank, M> const& v) {
  std::string s = "(";
  for (int d = 0; d < Rank; ++d) s += (d ? ", " : "") + std::to_string(v.extent(d));
  return s + ")";
}

/// A rectangular batch (batch, tokens, ...) seen as one packed stream (batch * tokens, ...); invalid_shape if the strides do not allow it.
template <class T, int Rank, class M>
[[nodiscard]] constexpr view<T, Rank - 1, M> flatten(view<T, Rank, M> const& v) {
  if (v.extent(0) > 1 && v.extent(1) > 1 && v.stride(0) != checked_mul(v.extent(1), v.stride(1)))
    fail({errc::invalid_shape, "batch and token dimensions of " + shape(v) + " are not one behind the other in memory",
          "Pass a tensor whose batch stride equals tokens times the token stride"});
  view<T, Rank - 1, M> r;
  r.data = v.data;
  for (int d = 1; d < Rank; ++d) {
    r.extents[std::size_t(d - 1)] = v.extent(d);
    r.strides[std::size_t(d - 1)] = v.stride(d);
  }
  r.extents[0] = checked_mul(v.extent(0), v.extent(1));
  if (v.extent(0) > 1 && v.extent(1) == 1) r.strides[0] = v.stride(0); // one token per batch row: any batch stride will do
  return r;
}

} // namespace sp
