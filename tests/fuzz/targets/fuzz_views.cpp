// libFuzzer target: foreign tensors: DLPack, byte strides, and packed QKV in every layout, with extents and strides from outside.
// What is accepted has addressable elements only, and each part points at the element its layout says.
#include <sp/core/adapt.hpp>

#include "input.hpp"

namespace fuzz_target {
namespace {

alignas(64) float memory[4096];

struct dl_tensor { // as in dlpack.h
  void* data;
  struct {
    std::int32_t device_type, device_id;
  } device;
  std::int32_t ndim;
  struct {
    std::uint8_t code, bits;
    std::uint16_t lanes;
  } dtype;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};

/// Every element has an address: the extreme ones, counted in 128 bits.
template <class T, int Rank>
void require_addressable(sp::view<T, Rank> const& v) {
  if (v.empty()) return;
  __int128 low = 0, high = 0, elements = 1;
  for (int d = 0; d < Rank; ++d) {
    require(v.extent(d) > 0, "views: a negative extent");
    __int128 const reach = __int128(v.extent(d) - 1) * v.stride(d);
    (reach < 0 ? low : high) += reach;
    elements *= v.extent(d);
  }
  auto const at = __int128(reinterpret_cast<std::uintptr_t>(v.data));
  require(v.data != nullptr && at % alignof(T) == 0, "views: null or misaligned");
  require(at + low * int(sizeof(T)) >= 0 && at + (high + 1) * int(sizeof(T)) <= __int128(UINTPTR_MAX), "views: beyond memory");
  require(elements * int(sizeof(T)) <= INT64_MAX, "views: more bytes than int64 counts");
}

/// Extents and strides that are mostly sensible.
template <int Rank>
sp::view<float, Rank> any_view(input& in) {
  sp::view<float, Rank> v;
  std::uint8_t const kind = in.byte();
  v.data = kind % 16 == 15 ? nullptr : memory + 2048;
  for (auto& e : v.extents) e = kind < 160 ? in.below(9) : in.number();
  index_t dense = 1;
  for (int d = Rank; d-- > 0;) {
    v.strides[std::size_t(d)] = kind % 4 == 0 ? in.number() : dense;
    if (kind < 160) dense *= v.extent(d);
  }
  return v;
}

/// a(i...) and b(j...) are the same float.
template <class A, class B>
void require_same(A const& a, B const& b) {
  require(a == b, "packed QKV: an element is elsewhere");
}

template <class V>
bool small(V const& v) {
  __int128 n = 1;
  for (int d = 0; d < V::rank; ++d) {
    n *= v.extent(d);
    if (v.extent(d) > 64 || v.stride(d) > 1000000 || v.stride(d) < -1000000) return false;
  }
  return n > 0 && n < 1000;
}

void packed_heads(input& in) {
  auto const p = any_view<3>(in);
  index_t const hq = in.number(), hkv = in.number();
  sp::qkv_views<float> parts;
  if (!accepted([&] { parts = sp::split_qkv(p, hq, hkv); })) return;
  require_addressable(parts.q), require_addressable(parts.k), require_addressable(parts.v);
  if (!small(p)) return;
  for (index_t t = 0; t < p.extent(0); ++t)
    for (index_t h = 0; h < hq + 2 * hkv; ++h)
      for (index_t d = 0; d < p.extent(2); ++d)
        require_same(&p(t, h, d), h < hq         ? &parts.q(t, h, d)
                                  : h < hq + hkv ? &parts.k(t, h - hq, d)
                                                 : &parts.v(t, h - hq - hkv, d));
}

void packed_rows(input& in) {
  auto const p = any_view<2>(in);
  index_t const hq = in.number(), hkv = in.number();
  sp::qkv_views<float> parts;
  if (accepted([&] { parts = sp::split_qkv(p, hq, hkv); })) {
    require_addressable(parts.q), require_addressable(parts.k), require_addressable(parts.v);
    require(parts.q.extent(1) == hq && parts.k.extent(1) == hkv, "packed QKV: another number of heads");
  }
  sp::grouped_qkv_views<float> groups;
  if (!accepted([&] { groups = sp::split_interleaved_qkv(p, hq, hkv); })) return;
  require_addressable(groups.q), require_addressable(groups.k), require_addressable(groups.v);
  sp::view<float, 3> q;
  if (!accepted([&] { q = sp::join_heads(groups.q); })) return;
  require_addressable(q);
  if (!small(p)) return;
  index_t const g = hq / hkv, dim = q.extent(2);
  for (index_t t = 0; t < p.extent(0); ++t)
    for (index_t h = 0; h < hq; ++h)
      for (index_t d = 0; d < dim; ++d) require_same(&q(t, h, d), &p(t, (h / g * (g + 2) + h % g) * dim + d));
}

void packed_threes(input& in) {
  auto const p = any_view<4>(in);
  sp::qkv_views<float> parts;
  if (accepted([&] { parts = sp::split_qkv(p); })) require_addressable(parts.q), require_addressable(parts.v);
  auto const b = any_view<5>(in);
  if (accepted([&] { parts = sp::split_qkv(b); })) require_addressable(parts.k), require_addressable(parts.v);
}

void dlpack(input& in) {
  dl_tensor t{};
  std::uint8_t const kind = in.byte();
  std::int64_t shape[8], strides[8];
  for (int d = 0; d < 8; ++d) shape[d] = kind & 1 ? in.number() : in.below(12), strides[d] = in.number();
  t.data = kind & 2 ? memory : kind & 4 ? nullptr : reinterpret_cast<void*>(std::uintptr_t(in.number()));
  t.device = {std::int32_t(in.byte() < 200 ? 1 : in.number()), std::int32_t(in.number())};
  t.ndim = in.byte() < 200 ? 3 : std::int32_t(in.number());
  bool const typed = in.byte() < 200;
  t.dtype = {std::uint8_t(typed ? 2 : in.byte()), std::uint8_t(typed ? 32 : in.byte()), std::uint16_t(typed ? 1 : in.number())};
  t.shape = shape;
  t.strides = kind & 8 ? strides : nullptr;
  t.byte_offset = kind & 16 ? 0 : std::uint64_t(in.number());
  sp::view<float const, 3> v;
  if (accepted([&] { v = sp::from_dlpack<float const, 3>(t); })) {
    require_addressable(v);
    require(t.ndim == 3 && t.device.device_type != 2 && t.dtype.bits == 32, "dlpack: another tensor");
    if (!v.empty())
      require(__int128(reinterpret_cast<std::uintptr_t>(v.data)) ==
                  __int128(reinterpret_cast<std::uintptr_t>(t.data)) + __int128(t.byte_offset),
              "dlpack: the address wrapped");
  }
}

void byte_strides(input& in) {
  std::vector<index_t> ne = in.numbers(5), nb = in.numbers(5);
  if (in.byte() < 200) nb.resize(ne.size(), 4);
  std::vector<std::uint64_t> const unsigned_nb(nb.begin(), nb.end());
  void* data = in.byte() < 240 ? static_cast<void*>(memory + 2048) : nullptr;
  sp::view<float, 3> v;
  if (accepted([&] { v = sp::from_reversed<float, 3>(data, ne, nb); })) {
    require_addressable(v);
    for (std::size_t d = 0; d < 3; ++d) require(v.extents[2 - d] == ne[d], "byte strides: another extent");
  }
  if (accepted([&] { v = sp::from_reversed<float, 3>(data, ne, unsigned_nb); })) require_addressable(v);
}

} // namespace

static void test_one(std::uint8_t const* data, std::size_t size) {
  input in(data, size);
  switch (in.byte() % 5) {
  case 0:
    packed_heads(in);
    break;
  case 1:
    packed_rows(in);
    break;
  case 2:
    packed_threes(in);
    break;
  case 3:
    dlpack(in);
    break;
  default:
    byte_strides(in);
  }
}

} // namespace fuzz_target

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  fuzz_target::test_one(data, size);
  return 0;
}
