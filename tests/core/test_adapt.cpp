// Importers of foreign tensors: the right values through every layout, and both sides named for every bad input.
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

#include <sp/core/adapt.hpp>
#include <sp/core/piece.hpp>

#include "support/failure.hpp"

namespace test_adapt {
namespace {

using sp::index_t;
using support::failure_of;
using support::says;

/// A tensor of some framework: shape and strides are known at run time only.
template <class T>
struct foreign {
  T* values;
  std::vector<int> sizes, steps;
};
struct unknown {};

} // namespace
} // namespace test_adapt

template <class T>
struct sp::tensor_traits<test_adapt::foreign<T>> {
  using foreign = test_adapt::foreign<T>;
  using element_type = T;
  using memory_type = sp::host_memory;
  static T* data(foreign const& t) { return t.values; }
  static int rank(foreign const& t) { return int(t.sizes.size()); }
  static sp::index_t extent(foreign const& t, int d) { return t.sizes[std::size_t(d)]; }
  static sp::index_t stride(foreign const& t, int d) { return t.steps[std::size_t(d)]; }
};

namespace test_adapt {
namespace {

static_assert(sp::adapted<foreign<float>> && !sp::adapted<unknown> && !sp::adapted<float>);

/// What std::mdspan looks like, with a fixed rank of two.
struct fake_mdspan {
  using element_type = float const;
  float const* p;
  unsigned extents[2], strides[2];
  static constexpr std::size_t rank() { return 2; }
  unsigned extent(std::size_t d) const { return extents[d]; }
  unsigned stride(std::size_t d) const { return strides[d]; }
  float const* data_handle() const { return p; }
};
struct no_stride {
  using element_type = float;
  static constexpr std::size_t rank() { return 2; }
  int extent(std::size_t) const { return 0; }
  float* data_handle() const { return nullptr; }
};
static_assert(sp::mdspan_like<fake_mdspan> && !sp::mdspan_like<no_stride> && !sp::mdspan_like<std::vector<float>>);

// The structs of dlpack.h, member for member.
enum device_type_t { cpu = 1, gpu = 2, pinned = 3, managed = 13, metal = 8 };
struct dl_device {
  device_type_t device_type;
  std::int32_t device_id;
};
struct dl_dtype {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct dl_tensor {
  void* data;
  dl_device device;
  std::int32_t ndim;
  dl_dtype dtype;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};
static_assert(sp::dlpack_like<dl_tensor> && !sp::dlpack_like<fake_mdspan>);

std::vector<float> counted(std::size_t n) {
  std::vector<float> v(n);
  std::iota(v.begin(), v.end(), 0.0f);
  return v;
}

TEST_CASE("adapt: a trait makes a view of any tensor") {
  auto values = counted(24);
  foreign<float> t{values.data(), {4, 3}, {6, 2}}; // every second column of (4, 6)
  auto v = sp::as_tensor<2>(t);
  static_assert(std::is_same_v<decltype(v), sp::view<float, 2, sp::host_memory>>);
  CHECK(v(0, 0) == 0);
  CHECK(v(3, 2) == 22);
  v(1, 1) = -1;
  CHECK(values[8] == -1);
  CHECK(says(failure_of([&] { return sp::as_tensor<3>(t); }), sp::errc::invalid_shape, "2 dimensions", "3 are expected"));
  t.values = nullptr;
  CHECK(says(failure_of([&] { return sp::as_tensor<2>(t); }), sp::errc::bad_pointer, "(4, 3)", "null"));
  t.sizes = {0, 3};
  CHECK(sp::as_tensor<2>(t).empty());
  t.sizes = {-1, 3};
  CHECK(says(failure_of([&] { return sp::as_tensor<2>(t); }), sp::errc::invalid_shape, "(-1, 3)"));
}

TEST_CASE("adapt: sizes beyond 2^31 pass, sizes beyond int64 do not") {
  float x = 0;
  index_t const big = index_t{1} << 40;
  CHECK(sp::checked_view(sp::view<float, 2>(&x, {big, 4})).elements() == big * 4);
  CHECK(failure_of([&] { return sp::checked_view(sp::view<float, 2>(&x, {big, big}, {1, 1})); }).code == sp::errc::size_overflow);
  CHECK(failure_of([&] { return sp::checked_view(sp::view<float, 1>(&x, {index_t{1} << 61})); }).code ==
        sp::errc::size_overflow); // bytes
  CHECK(failure_of([&] { return sp::checked_view(sp::view<float, 1>(&x, {3}, {index_t{1} << 61})); }).code ==
        sp::errc::size_overflow);
  CHECK(failure_of([&] { return sp::checked_view(sp::view<float, 1>(&x, {3}, {INT64_MIN})); }).code == sp::errc::size_overflow);
}

TEST_CASE("adapt: mdspan") {
  auto values = counted(12);
  auto v = sp::from_mdspan(fake_mdspan{values.data(), {3, 4}, {1, 3}}); // column-major
  static_assert(std::is_same_v<decltype(v), sp::view<float const, 2, sp::host_memory>>);
  CHECK(v(2, 3) == 11);
  CHECK(v(1, 0) == 1);
  CHECK(says(failure_of([] { return sp::from_mdspan(fake_mdspan{nullptr, {3, 4}, {1, 3}}); }), sp::errc::bad_pointer, "(3, 4)"));
  CHECK(sp::from_mdspan(fake_mdspan{nullptr, {3, 0}, {1, 3}}).empty());
}

TEST_CASE("adapt: DLPack, dense and strided, with an offset, const or not") {
  auto values = counted(30);
  std::int64_t shape[] = {2, 3, 4}, strides[] = {12, 1, 3};
  dl_tensor t{values.data(), {cpu, 0}, 3, {2, 32, 1}, shape, nullptr, 0};
  auto dense = sp::from_dlpack<float, 3>(t);
  CHECK(dense.dense());
  CHECK(dense(1, 2, 3) == 23);
  t.strides = strides;
  t.byte_offset = 6 * sizeof(float);
  auto v = sp::from_dlpack<float const, 3>(t);
  CHECK(v(1, 2, 3) == 6 + 12 + 2 + 9);
  t.device.device_type = pinned;
  CHECK(sp::from_dlpack<float, 3>(t)(0, 0, 0) == 6);
  t.device.device_type = managed;
  CHECK(sp::from_dlpack<float, 3, sp::device_memory>(t).data == values.data() + 6);
}

TEST_CASE("adapt: DLPack element types") {
  sp::bf16 b[2] = {sp::bf16(1.0f), sp::bf16(2.0f)};
  sp::fp16 h[2] = {sp::fp16(3.0f), sp::fp16(4.0f)};
  std::int64_t labels[2] = {5, 6};
  bool flags[2] = {true, false};
  double d[2] = {7, 8};
  std::int64_t shape[] = {2};
  auto tensor = [&](void* p, int code, int bits) {
    return dl_tensor{p, {cpu, 0}, 1, {std::uint8_t(code), std::uint8_t(bits), 1}, shape, nullptr, 0};
  };
  CHECK(static_cast<float>(sp::from_dlpack<sp::bf16, 1>(tensor(b, 4, 16))(1)) == 2);
  CHECK(static_cast<float>(sp::from_dlpack<sp::fp16, 1>(tensor(h, 2, 16))(1)) == 4);
  CHECK(sp::from_dlpack<std::int64_t, 1>(tensor(labels, 0, 64))(1) == 6);
  CHECK(sp::from_dlpack<bool, 1>(tensor(flags, 6, 8))(0));
  CHECK(sp::from_dlpack<double, 1>(tensor(d, 2, 64))(1) == 8);
  CHECK(says(failure_of([&] { return sp::from_dlpack<sp::fp16, 1>(tensor(b, 4, 16)); }), sp::errc::invalid_shape, "bfloat16",
             "float16 is"));
  CHECK(says(failure_of([&] { return sp::from_dlpack<std::uint64_t, 1>(tensor(labels, 0, 64)); }), sp::errc::invalid_shape,
             "holds int64", "uint64 is expected"));
}

TEST_CASE("adapt: DLPack errors name what came and what was expected") {
  auto values = counted(12);
  std::int64_t shape[] = {3, 4};
  dl_tensor const good{values.data(), {cpu, 0}, 2, {2, 32, 1}, shape, nullptr, 0};
  auto failure = [](dl_tensor const& t) { return failure_of([&] { return sp::from_dlpack<float, 2>(t); }); };
  dl_tensor t = good;
  t.ndim = 3;
  CHECK(says(failure(t), sp::errc::invalid_shape, "3 dimensions", "2 are expected"));
  t = good;
  t.dtype.bits = 16;
  CHECK(says(failure(t), sp::errc::invalid_shape, "float16", "float32"));
  t = good;
  t.dtype.lanes = 4;
  CHECK(says(failure(t), sp::errc::invalid_shape, "float32x4", "float32 is"));
  t = good;
  t.dtype.code = 77;
  CHECK(says(failure(t), sp::errc::invalid_shape, "77", "float32"));
  t = good;
  t.device.device_type = gpu;
  CHECK(says(failure(t), sp::errc::bad_pointer, "cuda", "cpu is expected"));
  t.device.device_type = metal;
  CHECK(says(failure(t), sp::errc::bad_pointer, "device type 8", "cpu"));
  CHECK(says(failure_of([&] { return sp::from_dlpack<float, 2, sp::device_memory>(good); }), sp::errc::bad_pointer,
             "lives on cpu", "cuda is expected"));
  t = good;
  t.byte_offset = 2;
  CHECK(says(failure(t), sp::errc::bad_pointer, "(3, 4)", "multiple of 4 bytes"));
  t = good;
  t.data = nullptr;
  t.byte_offset = 64; // an offset on null is still null
  CHECK(says(failure(t), sp::errc::bad_pointer, "null"));
  std::int64_t none[] = {0, 4}, negative[] = {3, -4};
  t.shape = none;
  CHECK(sp::from_dlpack<float, 2>(t).empty());
  t.shape = negative;
  CHECK(says(failure(t), sp::errc::invalid_shape, "(3, -4)"));
}

TEST_CASE("adapt: byte strides with the fastest dimension first (ggml)") {
  auto values = counted(2 * 3 * 4);
  std::int64_t ne[4] = {4, 3, 2, 1};
  std::size_t nb[4] = {4, 16, 48, 96};
  auto v = sp::from_reversed<float, 3>(values.data(), ne, nb);
  CHECK(sp::shape(v) == "(2, 3, 4)");
  CHECK(v.dense());
  CHECK(v(1, 2, 3) == 23);
  CHECK(sp::from_reversed<float const, 4>(values.data(), ne, nb)(0, 1, 2, 3) == 23);

  std::vector<std::int64_t> permuted_ne{4, 2, 3};
  std::vector<std::int64_t> permuted_nb{4, 48, 16};
  CHECK(sp::from_reversed<float, 3>(values.data(), permuted_ne, permuted_nb)(2, 1, 3) == 23);
}

template <class T, class Data>
concept readable_as = requires(Data data, std::array<std::int64_t, 1> ne) {
  sp::from_reversed<T, 1>(data, ne, ne);
};
static_assert(readable_as<float const, void const*> && readable_as<float const, void*> && readable_as<float, void*>);
static_assert(!readable_as<float, void const*> && !readable_as<float, float const*>); // const data stay const

TEST_CASE("adapt: byte strides that cannot be a view") {
  auto values = counted(24);
  std::int64_t ne[4] = {4, 3, 2, 1};
  std::size_t nb[4] = {4, 16, 48, 96}, halves[4] = {2, 8, 24, 48}, short_nb[2] = {4, 16};
  auto* bytes = reinterpret_cast<std::byte*>(values.data());
  CHECK(says(failure_of([&] { return sp::from_reversed<float, 2>(bytes, ne, nb); }), sp::errc::invalid_shape,
             "dimension 2 has extent 2"));
  CHECK(says(failure_of([&] { return sp::from_reversed<float, 3>(bytes, ne, halves); }), sp::errc::invalid_shape, "byte stride 2",
             "multiple of 4"));
  CHECK(says(failure_of([&] { return sp::from_reversed<float, 3>(bytes, ne, short_nb); }), sp::errc::invalid_shape, "4 extents",
             "2 strides"));
  CHECK(says(failure_of([&] { return sp::from_reversed<float, 5>(bytes, ne, nb); }), sp::errc::invalid_shape, "4 extents",
             "rank 5"));
  CHECK(says(failure_of([&] { return sp::from_reversed<float, 3>(bytes + 2, ne, nb); }), sp::errc::bad_pointer,
             "multiple of 4 bytes"));
  CHECK(says(failure_of([&] { return sp::from_reversed<float, 3>(nullptr, ne, nb); }), sp::errc::bad_pointer, "(2, 3, 4)"));
}

/// A tensor whose entry (t, h, d) of the dense (tokens, heads, dim) is 100 t + 10 h + d.
std::vector<float> labelled(index_t tokens, index_t heads, index_t dim) {
  std::vector<float> v;
  for (index_t t = 0; t < tokens; ++t)
    for (index_t h = 0; h < heads; ++h)
      for (index_t d = 0; d < dim; ++d) v.push_back(float(100 * t + 10 * h + d));
  return v;
}

TEST_CASE("adapt: packed QKV, heads in the middle or in the row") {
  auto values = labelled(3, 8, 2); // 4 q heads, 2 k, 2 v
  sp::view<float, 3> packed(values.data(), {3, 8, 2});
  sp::view<float, 2> rows(values.data(), {3, 16});
  for (auto const& p : {sp::split_qkv(packed, 4, 2), sp::split_qkv(rows, 4, 2)}) {
    CHECK(sp::shape(p.q) == "(3, 4, 2)");
    CHECK(sp::shape(p.k) == "(3, 2, 2)");
    CHECK(p.q(2, 3, 1) == 231);
    CHECK(p.k(1, 1, 0) == 150);
    CHECK(p.v(2, 0, 1) == 261);
  }
  CHECK(says(failure_of([&] { return sp::split_qkv(packed, 4, 3); }), sp::errc::invalid_shape, "(3, 8, 2)", "4 + 2 x 3"));
  CHECK(says(failure_of([&] { return sp::split_qkv(rows, 3, 1); }), sp::errc::invalid_shape, "(3, 16)", "5 heads"));
  CHECK(says(failure_of([&] { return sp::split_qkv(rows, -2, 1); }), sp::errc::invalid_shape));
  CHECK(says(failure_of([&] {
               return sp::split_qkv(sp::view<float, 3>(nullptr, {3, 8, 2}), 4, 2);
             }),
             sp::errc::bad_pointer, "(3, 8, 2)"));
  auto none = sp::split_qkv(sp::view<float, 3>(nullptr, {0, 8, 2}), 4, 2);
  CHECK(sp::shape(none.v) == "(0, 2, 2)");
}

TEST_CASE("adapt: the layout of llm.c (batch, tokens, 3, heads, dim)") {
  auto values = labelled(6, 6, 2); // 2 x 3 tokens; q, k, v of 2 heads each
  auto p = sp::split_qkv(sp::view<float, 5>(values.data(), {2, 3, 3, 2, 2}));
  CHECK(sp::shape(p.q) == "(6, 2, 2)");
  CHECK(p.q(5, 1, 1) == 511);
  CHECK(p.k(3, 0, 1) == 321);
  CHECK(p.v(4, 1, 0) == 450);
  CHECK(says(failure_of([&] {
               return sp::split_qkv(sp::view<float, 4>(values.data(), {9, 2, 2, 2}));
             }),
             sp::errc::invalid_shape, "(9, 2, 2, 2)", "not 3"));
  sp::view<float, 5> gaps(values.data(), {2, 2, 3, 2, 2}, {36, 12, 4, 2, 1});
  CHECK(says(failure_of([&] { return sp::split_qkv(gaps); }), sp::errc::invalid_shape, "(2, 2, 3, 2, 2)"));
  CHECK(sp::split_qkv(sp::view<float, 5>(nullptr, {2, 0, 3, 2, 2})).k.empty());
}

TEST_CASE("adapt: queries, key and value interleaved per kv head (Megatron)") {
  auto values = labelled(3, 8, 2); // 2 kv heads, each: q q k v
  sp::view<float, 2> rows(values.data(), {3, 16});
  auto p = sp::split_interleaved_qkv(rows, 4, 2);
  CHECK(sp::shape(p.q) == "(3, 2, 2, 2)");
  CHECK(p.q(2, 1, 1, 1) == 251);
  CHECK(p.k(1, 1, 0) == 160);
  CHECK(p.v(2, 0, 1) == 231);
  CHECK(says(failure_of([&] { return sp::join_heads(p.q); }), sp::errc::invalid_shape, "2 x 2 heads", "(3, 2, 2, 2)"));

  std::vector<float> dense(3 * 4 * 2);
  sp::view<float, 4> packed_q(dense.data(), {3, 2, 2, 2});
  sp::piece to = sp::as_piece(packed_q), from = sp::as_piece(p.q);
  CHECK(sp::copy({&to, 1}, {&from, 1}) == 96);
  auto q = sp::join_heads(packed_q);
  CHECK(sp::shape(q) == "(3, 4, 2)");
  CHECK(q(2, 3, 1) == 251);

  auto mha = sp::split_interleaved_qkv(sp::view<float, 2>(values.data(), {4, 12}), 2, 2); // one query per kv head: evenly spaced
  CHECK(sp::join_heads(mha.q)(3, 1, 1) == mha.q(3, 1, 0, 1));
  auto mqa = sp::split_interleaved_qkv(rows, 6, 1);
  CHECK(sp::join_heads(mqa.q)(2, 5, 1) == 251);
  CHECK(mqa.v(2, 0, 1) == 271);

  CHECK(says(failure_of([&] { return sp::split_interleaved_qkv(rows, 3, 2); }), sp::errc::invalid_shape, "3 q heads",
             "2 kv heads"));
  CHECK(says(failure_of([&] { return sp::split_interleaved_qkv(rows, 5, 1); }), sp::errc::invalid_shape, "(3, 16)", "7 heads"));
  CHECK(sp::split_interleaved_qkv(sp::view<float, 2>(nullptr, {0, 16}), 4, 2).v.empty());
}

} // namespace
} // namespace test_adapt
