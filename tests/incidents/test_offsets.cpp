// Incidents about numbers: offsets beyond 2^31 on views of memory that does not exist, and messages of no bytes.
// Nothing large is allocated or touched: positions, strides and sizes are arithmetic until a kernel runs.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include <sp/batch.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

#include "support/failure.hpp"
#include "support/tensors.hpp"

namespace test_offsets {
namespace {

using sp::errc;
using sp::index_t;
using support::failure_of;
using support::says;

constexpr index_t big = index_t{1} << 33; // tokens: four times what 31 bits can count
/// An address that nobody will read.
template <class T>
T* nowhere() {
  return reinterpret_cast<T*>(std::uintptr_t{1} << 40);
}
template <class T>
index_t distance(T* a, T const* b) {
  return (index_t(reinterpret_cast<std::uintptr_t>(a)) - index_t(reinterpret_cast<std::uintptr_t>(b))) / index_t(sizeof(T));
}

TEST_CASE("flash-attention#1311, #1500, #2611: 32-bit offsets: views [asan]") {
  sp::view<float, 3> v(nowhere<float>(), {index_t{1} << 20, 64, 128}); // (tokens, heads, dim)
  CHECK(v.elements() == index_t{1} << 33);
  CHECK(v.offset((1 << 20) - 1, 63, 127) == (index_t{1} << 33) - 1);
  CHECK(distance(v.rows(1 << 19, 1 << 19).data, v.data) == index_t{1} << 32);
  CHECK(distance(v.narrow(1, 32, 32).rows(1000000, 1).data, v.data) == index_t{1000000} * 8192 + 32 * 128);
  CHECK(v.dense());

  sp::view<sp::bf16, 3> heads_first(nowhere<sp::bf16>(), {big, 8, 64}, {64, 64 * big, 1}); // strides beyond 2^31
  CHECK(heads_first.offset(big - 1, 7, 63) == 8 * 64 * big - 1);
  CHECK(distance(heads_first.narrow(1, 7, 1).data, heads_first.data) == 7 * 64 * big);

  sp::view<float, 4> batch(nowhere<float>(), {8, index_t{1} << 20, 64, 128});
  CHECK(sp::flatten(batch).extent(0) == 8 << 20);
  CHECK(sp::flatten(batch).offset((8 << 20) - 1, 63, 127) == (index_t{1} << 36) - 1);
}

TEST_CASE("flash-attention#1311, #1500, #2611: 32-bit offsets: pieces and their bytes [asan]") {
  sp::view<double, 3> v(nowhere<double>(), {index_t{1} << 20, 64, 128});
  sp::piece p = sp::as_piece(v.rows(5, 1 << 19, 2));
  CHECK(p.bytes() == index_t{1} << 35);
  CHECK(p.strides[0] == 2 * 64 * 128 * 8);
  auto back = sp::as_view<double, 3>(p);
  CHECK(back.stride(0) == 2 * 64 * 128);
  CHECK(distance(back.data, v.data) == 5 * 64 * 128);
  std::vector<sp::piece> three(3, p);
  CHECK(sp::total_bytes(three) == 3 * (index_t{1} << 35));
  sp::detail::segment_cursor cursor(three);
  CHECK(cursor.left() == 64 * 128 * 8);
  cursor.advance(64 * 128 * 8 - 8);
  cursor.advance(8);
  CHECK(cursor.data() == reinterpret_cast<std::byte*>(v.rows(7, 1).data));
}

TEST_CASE("flash-attention#1311, #1500, #2611: 32-bit offsets: documents, layouts, blocks and maps") {
  sp::documents docs = sp::packed{0, big, 3 * big + 5};
  auto mask = sp::slices(sp::causal(), docs, docs);
  auto check = [&](auto const& how) {
    sp::layout l(docs, how, 8);
    index_t rows = 0;
    for (int p = 0; p < 8; ++p) rows += l.tokens(p);
    CHECK(rows == 3 * big + 5);
    sp::owner const last = l.owner_of(3 * big + 4);
    CHECK(last.part >= 0);
    double pairs = 0; // over 2^63: work() would say size_overflow
    sp::block far{};
    for (auto const& b : sp::blocks(sp::place(l.runs(last.part)), sp::table_of(l), mask)) {
      CHECK((b.rows > 0 && b.keys > 0 && b.q + b.rows <= l.tokens(last.part)));
      if (b.is_full()) pairs += double(b.rows) * double(b.keys);
      if (b.q_pos + (b.rows - 1) * b.q_stride == 3 * big + 4) far = b;
    }
    CHECK(far.document == 1);
    CHECK(far.q_origin == big);
    CHECK(far.q + far.rows == l.tokens(last.part));
    CHECK(far.sees(far.rows - 1, 0));
    CHECK(far.keys_seen_by(far.rows - 1).count > 0);
    return pairs;
  };
  CHECK(check(sp::zigzag{}) > double(big) * double(big) / 64);
  CHECK(check(sp::contiguous{}) > double(big) * double(big) / 64);
  check(sp::striped{});

  sp::batch b(docs, sp::zigzag{}, 3, 8);
  CHECK(sp::owner_of(b, 2 * big).part == b.layout().owner_of(2 * big).part);
  sp::layout other(docs, sp::contiguous{}, 8);
  index_t moved = 0;
  for (int p = 0; p < 8; ++p)
    sp::for_each_match(b.layout().runs(p), other.runs(7), sp::shift_map(docs, 1),
                       [&](sp::row_match const& m) { moved += m.count; });
  CHECK(moved == other.tokens(7) - 1); // all but the last token of the last document
  sp::batch padded(docs, sp::zigzag{}, 3, 8, {sp::shapes::padded});
  CHECK(padded.tokens() == big / 8 + (2 * big + 16) / 8);
}

TEST_CASE(
    "flash-attention#1311, #1500, #2611: 32-bit offsets: an attention object prepares and sizes a stream it could not hold") {
  std::atomic<int> good{0};
  sp::threads::run(2, [&](sp::threads const& c) {
    sp::batch b(sp::packed{0, big, 2 * big}, sp::zigzag{}, c);
    sp::attention_shape const shape{64, 8, 128, 128};
    sp::ring_attention ring(c, sp::reference{}, {.schedule = sp::schedule::rotate});
    auto p = ring.prepare(b);
    good += ring.saved_bytes<sp::bf16>(p, shape) >= big * 64 * 4 && ring.scratch_bytes<sp::bf16>(p, shape) > big * 8 * 256 * 2;
    sp::ulysses_attention ulysses(c, sp::reference{});
    auto u = ulysses.prepare(b);
    good += ulysses.saved_bytes<sp::bf16>(u, shape) > 2 * big * 64 * 128 * 2;
  });
  CHECK(good == 4);
}

TEST_CASE("sizes over int64 are size_overflow, never a wrapped number") {
  CHECK(failure_of([] { return sp::checked_mul(index_t{1} << 40, index_t{1} << 40); }).code == errc::size_overflow);
  CHECK(failure_of([] { return sp::checked_add(index_t{1} << 62, index_t{1} << 62); }).code == errc::size_overflow);
  CHECK(failure_of([] { return sp::view<float, 3>(nowhere<float>(), {big, big, 2}); }).code == errc::size_overflow);
  sp::view<double, 2> repeated(nowhere<double>(), {index_t{1} << 31, index_t{1} << 31},
                               {0, 0}); // elements fit, their bytes do not
  CHECK(repeated.elements() == index_t{1} << 62);
  CHECK(failure_of([&] { return sp::as_piece(repeated); }).code == errc::size_overflow);
  CHECK(failure_of([] { return sp::documents::rectangular(index_t{1} << 40, index_t{1} << 40); }).code == errc::size_overflow);
}

TEST_CASE("nccl#788: messages of no bytes are skipped by both sides, whoever lists them [asan]") {
  for (int listed = 0; listed < 4; ++listed) // which of the two sides lists the empty parcel
    sp::threads::run(3, [&](sp::threads const& c) {
      int const next = (c.rank() + 1) % 3, before = (c.rank() + 2) % 3;
      std::vector<int> out{c.rank(), 7}, in(2, -1), none;
      sp::piece const full = sp::as_piece(support::tensor<1>(out, {2})), got = sp::as_piece(support::tensor<1>(in, {2}));
      sp::piece const empty = sp::as_piece(support::tensor<2>(none, {0, 5}));
      std::vector<sp::parcel> sends{{next, {&full, 1}}}, receives{{before, {&got, 1}}};
      if (listed & 1) sends.push_back({before, {&empty, 1}});
      if (listed & 2) receives.push_back({next, {}});
      c.exchange({"zero", sends, receives}).wait();
      CHECK(in == std::vector<int>{before, 7});
      c.exchange({"nothing at all", {}, {}}).wait();
    });
}

} // namespace
} // namespace test_offsets
