// Documents from every source callers have, and each thing that can be wrong with them, named with its numbers.
#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <vector>

#include <sp/geometry/documents.hpp>

#include "support/failure.hpp"

namespace test_documents {
namespace {

using sp::document;
using sp::documents;
using sp::errc;
using sp::index_t;
using support::failure_of;
using support::says;

using offsets = std::vector<index_t>;

static_assert(sp::packed{0, 4, 4, 9}.size() == 3 && sp::packed{0, 4, 4, 9}.length() == 9);
static_assert(sp::packed{0, 4, 4, 9}[1] == document{4, 0, 0, 1});
static_assert(documents::rectangular(3, 5)[2] == document{10, 5, 5, 2});
static_assert(documents{}.length() == 0 && documents{}.tokens() == 0);

template <class T>
std::span<T const> as_span(std::vector<T> const& v) {
  return v;
}

TEST_CASE("documents: from cumulative lengths") {
  auto d = documents::packed(offsets{0, 3, 3, 3, 10});
  REQUIRE(d.size() == 4);
  CHECK(d[0] == document{0, 3, 3, 0});
  CHECK(d[1] == document{3, 0, 0, 1});
  CHECK(d[2] == document{3, 0, 0, 2});
  CHECK(d[3] == document{3, 7, 7, 3});
  CHECK(d.length() == 10);
  CHECK(d.tokens() == 10);
  CHECK(d == sp::packed{0, 3, 3, 3, 10});

  auto slack = documents::packed(offsets{0, 3, 8}, 12); // four positions at the end belong to nobody
  CHECK(slack.length() == 12);
  CHECK(slack.tokens() == 8);
  CHECK(sp::packed(offsets{0, 3, 8}, 12) == slack);
  CHECK(sp::packed(std::vector<int>{0, 3, 8}, 12) == slack);
  CHECK(documents::packed(offsets{0}).size() == 0);
  CHECK(documents::packed(offsets{0}, 5).length() == 5);
}

TEST_CASE("documents: cumulative lengths that are wrong") {
  CHECK(says(failure_of([] { return documents::packed(offsets{}); }), errc::bad_documents, "empty"));
  CHECK(says(failure_of([] { return documents::packed(offsets{1, 4}); }), errc::bad_documents, "cu_seqlens[0] is 1"));
  CHECK(says(failure_of([] { return documents::packed(offsets{-2, 4}); }), errc::bad_documents, "cu_seqlens[0] is -2"));
  CHECK(says(failure_of([] {
               return documents::packed(offsets{0, 8, 5, 9});
             }),
             errc::bad_documents, "cu_seqlens[2] is 5", "after 8"));
  CHECK(says(failure_of([] {
               return documents::packed(offsets{0, -3});
             }),
             errc::bad_documents, "cu_seqlens[1] is -3", "after 0"));
  CHECK(says(failure_of([] { return documents::packed(offsets{0, 8}, 6); }), errc::bad_documents, "end at 8", "6 positions"));
  CHECK(says(failure_of([] { return documents::packed(offsets{0, 8}, -7); }), errc::bad_documents, "end at 8", "-7 positions"));
  CHECK(says(failure_of([] { return sp::packed{4, 8}; }), errc::bad_documents, "cu_seqlens[0] is 4"));
}

TEST_CASE("documents: lists with gaps and room") {
  documents d({{2, 3, 4, 10}, {6, 0, 2, 11}, {9, 1, 1, 12}}, 16);
  CHECK(d.tokens() == 4);
  CHECK(d.length() == 16);
  CHECK(d[0].end() == 5);
  index_t sum = 0;
  for (document const& x : d) sum += x.id;
  CHECK(sum == 33);
}

TEST_CASE("documents: the last one that begins at a position or before it, with gaps and empty ones") {
  documents const d({{2, 0, 0, 0}, {2, 3, 4, 1}, {6, 0, 0, 2}, {8, 1, 1, 3}, {9, 4, 6, 4}, {15, 0, 0, 5}}, 20);
  for (std::size_t size = 0; size <= d.size(); ++size) {
    documents const first({d.begin(), d.begin() + std::ptrdiff_t(size)}, 20);
    for (index_t position = -1; position < 20; ++position) {
      std::size_t last = 0;
      for (std::size_t i = 0; i < size; ++i)
        if (d[i].begin <= position) last = i;
      CHECK(first.at_or_before(position) == last);
    }
  }
  CHECK(!d[1].holds(1));
  CHECK(d[1].holds(2));
  CHECK(d[1].holds(4));
  CHECK(!d[1].holds(5)); // room, but no token
  CHECK(!d[0].holds(2));
}

TEST_CASE("documents: lists that are wrong") {
  auto failure = [](std::vector<document> list, index_t length) { return failure_of([&] { return documents(list, length); }); };
  CHECK(says(failure({{0, 4, 4, 0}, {3, 2, 2, 1}}, 9), errc::bad_documents, "document 1", "begins at 3", "ends at 4"));
  CHECK(says(failure({{0, 2, 5, 0}, {4, 2, 2, 1}}, 9), errc::bad_documents, "document 1", "begins at 4",
             "ends at 5")); // in the padding
  CHECK(says(failure({{-1, 2, 2, 0}}, 9), errc::bad_documents, "document 0", "begins at -1"));
  CHECK(says(failure({{0, -2, 2, 0}}, 9), errc::bad_documents, "document 0", "count -2"));
  CHECK(says(failure({{0, 4, 0, 0}}, 9), errc::bad_documents, "document 0", "count 4", "room 0"));
  CHECK(says(failure({{0, 4, 4, 0}}, 3), errc::bad_documents, "end at 4", "3 positions"));
  CHECK(says(failure({{0, 4, 8, 0}}, 7), errc::bad_documents, "end at 8", "7 positions"));
  CHECK(says(failure({}, -1), errc::bad_documents, "-1 positions"));
  constexpr index_t far = std::numeric_limits<index_t>::max();
  CHECK(failure({{far - 1, 2, 2, 0}}, far).code == errc::size_overflow);
  CHECK(documents({{sp::unbounded - 1, 1, 1, 0}}, sp::unbounded).length() == sp::unbounded);
  CHECK(failure_of([] { return documents({{far - 1, 1, 1, 0}}, far); }).code == errc::size_overflow);
}

TEST_CASE("documents: rectangular batches") {
  auto d = documents::rectangular(2, 6);
  CHECK(d == sp::packed{0, 6, 12});
  CHECK(documents::rectangular(0, 6).length() == 0);
  CHECK(documents::rectangular(3, 0).size() == 3);
  CHECK(says(failure_of([] { return documents::rectangular(-2, -3); }), errc::bad_documents, "-2 rows", "-3 tokens"));
  CHECK(says(failure_of([] { return documents::rectangular(2, -3); }), errc::bad_documents, "-3 tokens"));
  CHECK(failure_of([] { return documents::rectangular(4, index_t{1} << 62); }).code == errc::size_overflow);
}

TEST_CASE("documents: padding masks, left, right and on both sides, in any flag type") {
  std::vector<int> right{1, 1, 1, 0, /**/ 1, 0, 0, 0, /**/ 0, 0, 0, 0, /**/ 7, 1, 1, 1};
  auto d = documents::from_padding_mask(as_span(right), 4, 4);
  REQUIRE(d.size() == 4);
  CHECK(d[0] == document{0, 3, 3, 0});
  CHECK(d[1] == document{4, 1, 1, 1});
  CHECK(d[2].count == 0); // a row of padding alone is an empty document
  CHECK(d[2].id == 2);
  CHECK(d[3] == document{12, 4, 4, 3});
  CHECK(d.length() == 16);
  CHECK(d.tokens() == 8);

  std::vector<std::uint8_t> left{0, 0, 1, 1, /**/ 0, 1, 1, 0};
  auto l = documents::from_padding_mask(as_span(left), 2, 4);
  CHECK(l[0] == document{2, 2, 2, 0});
  CHECK(l[1] == document{5, 2, 2, 1});

  bool const flags[] = {true, false, false};
  CHECK(documents::from_padding_mask(std::span<bool const>(flags), 1, 3)[0] == document{0, 1, 1, 0});
  std::vector<float> floats{0.0f, 1.0f};
  CHECK(documents::from_padding_mask(as_span(floats), 1, 2)[0] == document{1, 1, 1, 0});
  CHECK(documents::from_padding_mask(as_span(std::vector<int>{}), 0, 4).size() == 0);
}

TEST_CASE("documents: padding masks that are wrong") {
  std::vector<int> hole{1, 1, 1, 1, /**/ 1, 0, 1, 0};
  CHECK(says(failure_of([&] { return documents::from_padding_mask(as_span(hole), 2, 4); }), errc::bad_documents, "row 1",
             "token 1"));
  CHECK(says(failure_of([&] { return documents::from_padding_mask(as_span(hole), 2, 5); }), errc::bad_documents, "8 entries",
             "10"));
  CHECK(says(failure_of([&] { return documents::from_padding_mask(as_span(hole), -2, -4); }), errc::bad_documents, "-2 rows",
             "-4 tokens"));
  CHECK(failure_of([&] { return documents::from_padding_mask(as_span(hole), index_t{1} << 40, index_t{1} << 40); }).code ==
        errc::size_overflow);
}

TEST_CASE("documents: every padding mask of six tokens is read as its ends say, or refused") {
  for (unsigned bits = 0; bits < 64; ++bits) {
    std::vector<int> mask;
    for (unsigned t = 0; t < 6; ++t) mask.push_back(int(bits >> t & 1u));
    index_t ones = 0, edges = 0;
    for (std::size_t t = 0; t < 6; ++t) {
      ones += mask[t];
      edges += mask[t] && (t == 0 || !mask[t - 1]);
    }
    CAPTURE(bits);
    if (edges > 1) {
      CHECK(failure_of([&] { return documents::from_padding_mask(as_span(mask), 1, 6); }).code == errc::bad_documents);
      continue;
    }
    auto d = documents::from_padding_mask(as_span(mask), 1, 6);
    CHECK(d.tokens() == ones);
    bool same = true;
    for (index_t t = 0; t < 6; ++t) same = same && (d[0].begin <= t && t < d[0].end()) == (mask[std::size_t(t)] != 0);
    CHECK(same);
  }
}

TEST_CASE("documents: from position ids") {
  CHECK(documents::from_position_ids(as_span(std::vector<int>{0, 1, 2, 0, 0, 1})) == sp::packed{0, 3, 4, 6});
  CHECK(documents::from_position_ids(as_span(std::vector<std::int64_t>{0})) == sp::packed{0, 1});
  CHECK(documents::from_position_ids(as_span(std::vector<std::uint8_t>{0, 1, 0})) == sp::packed{0, 2, 3});
  CHECK(documents::from_position_ids(as_span(std::vector<int>{})) == documents{});
}

TEST_CASE("documents: position ids of -1 are padding, which belongs to no document") {
  auto from = [](std::vector<int> const& ids) { return documents::from_position_ids(as_span(ids)); };
  CHECK(from({0, 1, 2, -1, -1}) == documents({{0, 3, 3, 0}}, 5)); // padded on the right
  CHECK(from({-1, -1, 0, 1, 2}) == documents({{2, 3, 3, 0}}, 5)); // on the left
  CHECK(from({0, 1, -1, -1, 0, 1, 2, -1, -1, -1, -1, 0}) ==
        documents({{0, 2, 2, 0}, {4, 3, 3, 1}, {11, 1, 1, 2}}, 12));                                // rows of 4
  CHECK(from({0, 1, -1, 0, 0, 1, -1}) == documents({{0, 2, 2, 0}, {3, 1, 1, 1}, {4, 2, 2, 2}}, 7)); // packed, with gaps
  CHECK(from({-1, -1, -1}) == documents({}, 3));
  auto mask = std::vector<int>{1, 1, 0, 0, 0, 1, 1, 1}; // the same rows as a padding mask
  CHECK(from({0, 1, -1, -1, -1, 0, 1, 2}) == documents::from_padding_mask(as_span(mask), 2, 4));
}

TEST_CASE("documents: multimodal position ids: a document starts where time, height and width are all 0") {
  // text, an image of 2 x 3 from position 2 on, text from 5 on; a document that is an image of 2 x 2 from its first token on, and a
  // video of two frames of 2 x 1 whose time counts in steps of 25; padding
  std::vector<std::int64_t> const time{0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 0, 0, 0, 0, 2, 3, 3, 28, 28, 29, -1, -1},
      height{0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 0, 0, 1, 1, 2, 3, 4, 3, 4, 29, -1, -1},
      width{0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 0, 1, 0, 1, 2, 3, 3, 3, 3, 29, -1, -1};
  auto planes = [](std::initializer_list<std::vector<std::int64_t>> list) {
    std::vector<std::int64_t> all;
    for (auto const& p : list) all.insert(all.end(), p.begin(), p.end());
    return all;
  };
  auto const three = planes({time, height, width});
  CHECK(documents::from_position_ids(as_span(three), 3) == documents({{0, 10, 10, 0}, {10, 10, 10, 1}}, 22));
  std::vector<std::int64_t> text(22, -1); // of four planes the first decides: here the second document is two
  for (index_t i = 0; i < 20; ++i) text[std::size_t(i)] = i < 10 ? i : (i - 10) % 5;
  auto const four = planes({text, time, height, width});
  CHECK(documents::from_position_ids(as_span(four), 4) == documents({{0, 10, 10, 0}, {10, 5, 5, 1}, {15, 5, 5, 2}}, 22));
  CHECK(documents::from_position_ids(as_span(std::vector<int>{}), 3) == documents{});

  auto failure = [](std::vector<int> const& ids, index_t n) {
    return failure_of([&] { return documents::from_position_ids(as_span(ids), n); });
  };
  CHECK(says(failure({0, 1, 0, 1}, 3), errc::bad_documents, "4 position ids in 3 planes"));
  CHECK(says(failure({0, 1, 0, 1}, 2), errc::bad_documents, "4 position ids in 2 planes"));
  CHECK(says(failure({0, 1, 0, 1}, 0), errc::bad_documents, "in 0 planes"));
  CHECK(says(failure({1, 2, 1, 2, 1, 2}, 3), errc::bad_documents, "position id (1, 1, 1) at token 0"));
  CHECK(
      says(failure({0, 1, 3, 0, 1, 3, 0, 1, 3}, 3), errc::bad_documents, "position id (3, 3, 3) at token 2")); // text that jumps
  CHECK(says(failure({0, 1, 0, 1, 0, -1}, 3), errc::bad_documents, "position id (1, 1, -1) at token 1"));
  for (auto last : {std::numeric_limits<index_t>::max(), std::numeric_limits<index_t>::min()}) { // nothing is added to an id
    std::vector<index_t> const ids{0, 1, last, 2, 0, 2, last, 2, 0, 3, last, 2};
    auto const e = failure_of([&] { return documents::from_position_ids(as_span(ids), 3); });
    CHECK(says(e, errc::bad_documents, last > 0 ? "position id (2, 2, 2) at token 3" : "at token 2"));
  }
  CHECK(says(failure({0, -1, 1, 0, -1, 1, 0, -1, 1}, 3), errc::bad_documents,
             "position id (1, 1, 1) at token 2")); // behind padding
}

TEST_CASE("documents: position ids that are wrong") {
  auto failure = [](auto ids) { return failure_of([&] { return documents::from_position_ids(as_span(ids)); }); };
  CHECK(says(failure(std::vector<int>{1, 2}), errc::bad_documents, "position id 1", "token 0"));
  CHECK(says(failure(std::vector<int>{0, 1, 3}), errc::bad_documents, "position id 3", "token 2"));
  CHECK(says(failure(std::vector<int>{0, 1, 1}), errc::bad_documents, "position id 1", "token 2"));
  CHECK(says(failure(std::vector<int>{0, -2}), errc::bad_documents, "position id -2", "token 1"));
  CHECK(says(failure(std::vector<int>{0, 1, -1, 2}), errc::bad_documents, "position id 2", "token 3")); // padding in a document
  CHECK(says(failure(std::vector<int>{1, 1, 0, 1}), errc::bad_documents, "position id 1", "token 0"));  // padded by ones
  CHECK(says(failure(std::vector<std::uint32_t>{0, ~std::uint32_t{0}}), errc::bad_documents, "4294967295", "token 1"));
  CHECK(says(failure(std::vector<std::uint64_t>{0, ~std::uint64_t{0}}), errc::bad_documents, "18446744073709551615", "token 1"));
}

TEST_CASE("documents: padded to a multiple, in a stream of their own") {
  auto d = documents({{1, 5, 5, 8}, {7, 0, 0, 9}, {9, 4, 4, 4}}, 20).padded(4);
  REQUIRE(d.size() == 3);
  CHECK(d[0] == document{0, 5, 8, 8});
  CHECK(d[1] == document{8, 0, 0, 9});
  CHECK(d[2] == document{8, 4, 4, 4});
  CHECK(d.length() == 12);
  CHECK(d.tokens() == 9);
  CHECK(d.padded(1).length() == 9); // slack and old room go
  CHECK(says(failure_of([&] { return d.padded(0); }), errc::bad_documents, "multiple of 0"));
  CHECK(says(failure_of([&] { return d.padded(-4); }), errc::bad_documents, "multiple of -4"));
  CHECK(failure_of([] { return documents::rectangular(1, std::numeric_limits<index_t>::max()).padded(4); }).code ==
        errc::size_overflow);
}

TEST_CASE("documents: the caller's ids") {
  auto d = documents::packed(offsets{0, 3, 5}).with_ids(offsets{70, 7});
  CHECK(d[0] == document{0, 3, 3, 70});
  CHECK(d[1] == document{3, 2, 2, 7});
  CHECK(says(failure_of([&] { return d.with_ids(offsets{1}); }), errc::bad_documents, "1 ids", "2 documents"));
}

} // namespace
} // namespace test_documents
