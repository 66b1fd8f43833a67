// DLTensor, the tensor that PyTorch, JAX and others hand to each other, as a view; dlpack.h itself is not needed.
// Element type, rank and device must be what the caller asks for; errors name what came and what was expected.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>

#include <sp/core/adapt/tensor_traits.hpp>
#include <sp/core/dtype.hpp>

namespace sp {

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

namespace detail {

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

/// A DLTensor as a view of T (const or not). Null strides mean dense. Errors name what came and what was expected:
/// invalid_shape for rank and dtype, bad_pointer for the device.
template <class T, int Rank, class Memory = host_memory, dlpack_like D>
[[nodiscard]] view<T, Rank, Memory> from_dlpack(D const& t) {
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

} // namespace sp
