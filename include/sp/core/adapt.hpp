// Foreign tensors as views: a trait to specialise, and importers for mdspan, DLPack, packed QKV and byte-stride tensors.
// Types are recognised by their members; rank, element type, device, null and alignment are checked, and errors name both sides.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>

#include <sp/core/dtype.hpp>
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

/// What std::mdspan offers: static rank(), extent(i), stride(i) and a plain pointer.
template <class M>
concept mdspan_like = requires(M const& m, std::size_t d) {
  typename M::element_type;
  { M::rank() } -> std::convertible_to<std::size_t>;
  { m.extent(d) } -> std::convertible_to<index_t>;
  { m.stride(d) } -> std::convertible_to<index_t>;
  { m.data_handle() } -> std::convertible_to<typename M::element_type*>;
};

/// What DLTensor of dlpack.h offers; pass managed.dl_tensor of a DLManagedTensor.
template <class D>
concept dlpack_like = requires(D const& t) {
  { t.data } -> std::convertible_to<void const*>;
  { t.ndim } -> std::convertible_to<int>;
  { t.shape[0] } -> std::convertible_to<index_t>;
  { t.strides[0] } -> std::convertible_to<index_t>;
  { t.strides == nullptr } -> std::convertible_to<bool>;
  { t.byte_offset } -> std::convertible_to<std::uint64_t>;
  { t.dtype.code } -> std::convertible_to<int>;
  { t.dtype.bits } -> std::convertible_to<int>;
  { t.dtype.lanes } -> std::convertible_to<int>;
  {t.device.device_type};
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

// Codes of dlpack.h.
inline constexpr int dl_int = 0, dl_uint = 1, dl_float = 2, dl_bfloat = 4, dl_bool = 6;
inline constexpr int dl_cpu = 1, dl_cuda = 2, dl_cuda_host = 3, dl_cuda_managed = 13;

template <class T>
constexpr int dl_code() {
  if constexpr (std::same_as<T, bf16>)
    return dl_bfloat;
  else if constexpr (std::same_as<T, bool>)
    return dl_bool;
  else if constexpr (std::floating_point<T> || std::same_as<T, fp16>)
    return dl_float;
  else if constexpr (std::signed_integral<T>)
    return dl_int;
  else if constexpr (std::unsigned_integral<T>)
    return dl_uint;
  else
    static_assert(std::same_as<T, float>, "sp::from_dlpack reads float, double, sp::bf16, sp::fp16, bool and integers");
}

inline std::string dl_type(int code, int bits, int lanes) {
  char const* names[] = {"int", "uint", "float", "handle", "bfloat", "complex", "bool"};
  std::string s = code >= 0 && code < 7 ? names[code] : "type code " + std::to_string(code) + " of width ";
  s += std::to_string(bits);
  return lanes == 1 ? s : s + "x" + std::to_string(lanes);
}

inline std::string dl_device(int type) {
  switch (type) {
  case dl_cpu:
    return "cpu";
  case dl_cuda:
    return "cuda";
  case dl_cuda_host:
    return "cuda_host";
  case dl_cuda_managed:
    return "cuda_managed";
  default:
    return "device type " + std::to_string(type);
  }
}

/// May code for `Memory` touch what lives on this device?
template <class Memory>
constexpr bool dl_reachable(int type) {
  if (type == dl_cuda_managed) return true;
  return std::same_as<Memory, host_memory> ? type == dl_cpu || type == dl_cuda_host : type == dl_cuda;
}

} // namespace detail

namespace detail {

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

/// A tensor of the caller's own type as a view. invalid_shape when it does not have `Rank` dimensions.
template <int Rank, class Tensor>
auto as_tensor(Tensor const& t) {
  static_assert(adapted<Tensor>,
                "sp::as_tensor needs a specialisation of sp::tensor_traits for this type, with element_type, memory_type, "
                "data(t), rank(t), extent(t, d) and stride(t, d)");
  if constexpr (adapted<Tensor>) {
    detail::require_rank(index_t(tensor_traits<Tensor>::rank(t)), Rank);
    return checked_view(detail::described_view<Rank>(t));
  }
}

/// std::mdspan, Kokkos::mdspan and what looks like them.
template <class Memory = host_memory, mdspan_like M>
auto from_mdspan(M const& m) {
  return checked_view(detail::described_mdspan<Memory>(m));
}

/// A DLTensor as a view of T (const or not). Null strides mean dense. Errors name what came and what was expected:
/// invalid_shape for rank and dtype, bad_pointer for the device.
template <class T, int Rank, class Memory = host_memory, dlpack_like D>
view<T, Rank, Memory> from_dlpack(D const& t) {
  using value = std::remove_const_t<T>;
  detail::require_rank(index_t(t.ndim), Rank);
  int code = int(t.dtype.code), bits = int(t.dtype.bits), lanes = int(t.dtype.lanes), device = int(t.device.device_type);
  int want_code = detail::dl_code<value>(), want_bits = int(8 * sizeof(value));
  if (code != want_code || bits != want_bits || lanes != 1)
    fail({errc::invalid_shape,
          "the tensor holds " + detail::dl_type(code, bits, lanes) + ", " + detail::dl_type(want_code, want_bits, 1) +
              " is expected",
          "Convert the tensor or ask for the type it has"});
  if (!detail::dl_reachable<Memory>(device))
    fail({errc::bad_pointer,
          "the tensor lives on " + detail::dl_device(device) + ", " + (std::same_as<Memory, host_memory> ? "cpu" : "cuda") +
              " is expected",
          "Move the tensor or ask for a view of the memory it is in"});
  std::array<index_t, std::size_t(Rank)> extents{}, strides{};
  for (std::size_t d = 0; d < std::size_t(Rank); ++d) extents[d] = index_t(t.shape[d]);
  view<T, Rank, Memory> v(nullptr, extents);
  if (t.strides != nullptr)
    for (std::size_t d = 0; d < std::size_t(Rank); ++d) strides[d] = index_t(t.strides[d]);
  if (t.strides != nullptr) v.strides = strides;
  // the address is made from integers: an offset on null is not null, and must not pass for a tensor
  auto at = reinterpret_cast<std::uintptr_t>(t.data);
  if (t.data != nullptr && std::uint64_t(t.byte_offset) > UINTPTR_MAX - at)
    fail({errc::bad_pointer, "the byte offset " + std::to_string(t.byte_offset) + " leaves the address space",
          "Check the DLTensor: the offset is counted from data"});
  if (t.data != nullptr) v.data = reinterpret_cast<T*>(at + std::uintptr_t(t.byte_offset));
  return checked_view(v);
}

/// A tensor with byte strides and its fastest dimension first (ggml: ne, nb) as a row-major view: extent(0) is the slowest of
/// the first Rank dimensions; the others must be 1. `ne` and `nb` are arrays (or vectors, spans) of integers. Const data need a const T.
template <class T, int Rank, class Memory = host_memory, class Extents, class Strides>
view<T, Rank, Memory> from_reversed(std::conditional_t<std::is_const_v<T>, void const, void>* data, Extents const& ne,
                                    Strides const& nb) {
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
            "Ask for a higher rank or slice the tensor"});
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

namespace detail {
/// narrow() that also serves empty tensors, whose pointer may be null.
template <class View>
View narrowed(View const& v, int d, index_t begin, index_t count) {
  return v.narrow(d, v.empty() ? 0 : begin, count);
}
} // namespace detail

/// Queries, keys and values that live in one tensor.
template <class T, class M = host_memory>
struct qkv_views {
  view<T, 3, M> q; ///< (tokens, q heads, dim)
  view<T, 3, M> k; ///< (tokens, kv heads, dim)
  view<T, 3, M> v; ///< (tokens, kv heads, dim)
};

/// One projection with all query heads, then all key heads, then all value heads: packed (tokens, q_heads + 2 kv_heads, dim).
template <class T, class M>
qkv_views<T, M> split_qkv(view<T, 3, M> const& packed, index_t q_heads, index_t kv_heads) {
  if (q_heads <= 0 || kv_heads <= 0 || packed.extent(1) != checked_add(q_heads, checked_mul(2, kv_heads)))
    fail({errc::invalid_shape,
          "packed heads of " + shape(packed) + " are not " + std::to_string(q_heads) + " + 2 x " + std::to_string(kv_heads),
          "The middle extent is q heads + 2 kv heads"});
  checked_view(packed);
  using detail::narrowed;
  return {narrowed(packed, 1, 0, q_heads), narrowed(packed, 1, q_heads, kv_heads),
          narrowed(packed, 1, q_heads + kv_heads, kv_heads)};
}

namespace detail {
/// Row entries (tokens, width) as (tokens, heads, width / heads).
template <class T, class M>
view<T, 3, M> heads_of_width(view<T, 2, M> const& packed, index_t heads) {
  if (heads <= 0 || packed.extent(1) % heads != 0)
    fail({errc::invalid_shape, "rows of " + shape(packed) + " do not hold " + std::to_string(heads) + " heads of equal size",
          "The row is (q heads + 2 kv heads) x dim entries"});
  index_t dim = packed.extent(1) / heads;
  return {packed.data, {packed.extent(0), heads, dim}, {packed.stride(0), checked_mul(dim, packed.stride(1)), packed.stride(1)}};
}
} // namespace detail

/// The same, as a projection writes it: packed (tokens, (q_heads + 2 kv_heads) dim).
template <class T, class M>
qkv_views<T, M> split_qkv(view<T, 2, M> const& packed, index_t q_heads, index_t kv_heads) {
  return split_qkv(detail::heads_of_width(packed, checked_add(q_heads, checked_mul(2, kv_heads))), q_heads, kv_heads);
}

/// One projection with a dimension of three: packed (tokens, 3, heads, dim).
template <class T, class M>
qkv_views<T, M> split_qkv(view<T, 4, M> const& packed) {
  if (packed.extent(1) != 3)
    fail({errc::invalid_shape, "extent 1 of packed " + shape(packed) + " is not 3", "The layout is (tokens, 3, heads, dim)"});
  checked_view(packed);
  auto part = [&](index_t i) {
    auto p = detail::narrowed(packed, 1, i, 1);
    return view<T, 3, M>(p.data, {p.extent(0), p.extent(2), p.extent(3)}, {p.stride(0), p.stride(2), p.stride(3)});
  };
  return {part(0), part(1), part(2)};
}

/// The layout of llm.c: packed (batch, tokens, 3, heads, dim), as views of one stream of batch x tokens rows.
template <class T, class M>
qkv_views<T, M> split_qkv(view<T, 5, M> const& packed) {
  return split_qkv(flatten(packed));
}

/// Queries, keys and values that are interleaved per kv head.
template <class T, class M = host_memory>
struct grouped_qkv_views {
  view<T, 4, M> q; ///< (tokens, kv heads, queries per kv head, dim)
  view<T, 3, M> k; ///< (tokens, kv heads, dim)
  view<T, 3, M> v; ///< (tokens, kv heads, dim)
};

/// The layout of Megatron: packed (tokens, kv_heads (group + 2) dim), for each kv head its queries, its key and its value.
/// join_heads(q) is the usual (tokens, q heads, dim) where the strides allow one.
template <class T, class M>
grouped_qkv_views<T, M> split_interleaved_qkv(view<T, 2, M> const& packed, index_t q_heads, index_t kv_heads) {
  if (q_heads <= 0 || kv_heads <= 0 || q_heads % kv_heads != 0)
    fail({errc::invalid_shape, std::to_string(q_heads) + " q heads are no multiple of " + std::to_string(kv_heads) + " kv heads",
          "Every kv head serves the same number of q heads"});
  index_t g = q_heads / kv_heads;
  auto p =
      checked_view(detail::heads_of_width(packed, checked_add(q_heads, checked_mul(2, kv_heads)))); // (tokens, kv (g + 2), dim)
  view<T, 4, M> all(p.data, {p.extent(0), kv_heads, g + 2, p.extent(2)},
                    {p.stride(0), (g + 2) * p.stride(1), p.stride(1), p.stride(2)});
  auto entry = [&](index_t i) {
    auto x = detail::narrowed(all, 2, i, 1);
    return view<T, 3, M>(x.data, {x.extent(0), x.extent(1), x.extent(3)}, {x.stride(0), x.stride(1), x.stride(3)});
  };
  return {all.narrow(2, 0, g), entry(g), entry(g + 1)};
}

/// (tokens, kv heads, group, dim) as (tokens, kv heads x group, dim) without a copy; invalid_shape if heads are unevenly spaced.
template <class T, class M>
view<T, 3, M> join_heads(view<T, 4, M> const& q) {
  index_t kv = q.extent(1), g = q.extent(2);
  if (kv > 1 && g > 1 && q.stride(1) != checked_mul(g, q.stride(2)))
    fail({errc::invalid_shape,
          "the " + std::to_string(kv) + " x " + std::to_string(g) + " heads of " + shape(q) + " are not evenly spaced",
          "Copy the queries into a dense tensor (sp::copy of as_piece), or call attention per kv head"});
  return {q.data, {q.extent(0), checked_mul(kv, g), q.extent(3)}, {q.stride(0), g > 1 ? q.stride(2) : q.stride(1), q.stride(3)}};
}

} // namespace sp
