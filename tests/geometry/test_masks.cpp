// Masks against brute force: the slices of every mask show exactly the pairs of its definition, each once.
// Overlapping, reversed and straying slices are refused with the slices named.
#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <sp/geometry/mask.hpp>

#include "support/failure.hpp"

namespace test_masks {
namespace {

using sp::document;
using sp::documents;
using sp::errc;
using sp::index_t;
using sp::mask;
using sp::slice;
using support::failure_of;
using support::says;

/// Which document a position is in; -1: none.
index_t document_of(documents const& docs, index_t p) {
  for (std::size_t d = 0; d < docs.size(); ++d)
    if (docs[d].begin <= p && p < docs[d].end()) return index_t(d);
  return -1;
}

/// True if the slices of m show the pairs (q, k) exactly as `sees(document, q offset, k offset)` says, each pair once.
template <class Sees>
bool shows(mask const& m, documents const& q, documents const& k, Sees&& sees) {
  auto list = sp::slices(m, q, k);
  for (std::size_t i = 1; i < list.size(); ++i)
    if (list[i].document < list[i - 1].document) return false;
  for (index_t i = 0; i < q.length(); ++i)
    for (index_t j = 0; j < k.length(); ++j) {
      index_t d = document_of(q, i);
      bool want =
          d >= 0 && d == document_of(k, j) && sees(std::size_t(d), i - q[std::size_t(d)].begin, j - k[std::size_t(d)].begin);
      index_t times = 0;
      for (slice const& s : list) {
        if (!s.sees(i, j)) continue;
        ++times;
        auto const &dq = q[std::size_t(s.document)], &dk = k[std::size_t(s.document)];
        if (s.document != d || s.id != dq.id || s.q_begin != dq.begin || s.k_origin != dk.begin) return false;
        if (s.q_origin != dq.begin + (m.at == sp::align::end ? dq.count - dk.count : 0)) return false;
      }
      if (times != (want ? 1 : 0)) return false;
    }
  return true;
}
template <class Sees>
bool shows(mask const& m, documents const& docs, Sees&& sees) {
  return shows(m, docs, docs, sees);
}

documents with_gaps() { return documents({{1, 5, 5, 40}, {6, 0, 0, 41}, {8, 1, 3, 42}, {12, 7, 7, 43}}, 21); }

std::vector<documents> streams() {
  return {sp::packed{0, 9}, sp::packed{0, 4, 4, 11}, sp::packed{0, 0, 1, 2, 8}, with_gaps(), documents{}, sp::packed{0, 0}};
}

// A causal slice is one slice per document, and empty documents have none.
static_assert(sp::slices(sp::causal(), sp::packed{0, 4, 4, 9}, sp::packed{0, 4, 4, 9}).size() == 2);
static_assert(sp::slices(sp::causal(), sp::packed{0, 4, 9}, sp::packed{0, 4, 9})[1] ==
              slice{4, 9, 4, 9, -sp::unbounded, 0, 1, 1, 4, 4, 4});
// Prefix-LM: all x prefix full, all x rest causal.
static_assert(sp::slices(sp::prefix_lm({3}), sp::packed{0, 8}, sp::packed{0, 8}).size() == 2);
static_assert(!slice{0, 4, 0, 4, -1, 1}.empty() && slice{0, 4, 4, 8, 8, 9}.empty() && slice{0, 4, 0, 4, 1, 0}.empty());
static_assert(sp::detail::overlap({0, 4, 0, 4, 0, 0}, {2, 6, 0, 4, -1, 5}) &&
              !sp::detail::overlap({0, 4, 0, 4, -9, 0}, {0, 4, 0, 4, 1, 9}));

TEST_CASE("masks: full, causal and windows of every width [asan]") {
  for (documents const& docs : streams()) {
    CHECK(shows(sp::full(), docs, [](auto, index_t, index_t) { return true; }));
    CHECK(shows(sp::causal(), docs, [](auto, index_t q, index_t k) { return k <= q; }));
    for (index_t left = 0; left < 9; ++left)
      for (index_t right = 0; right < 9; ++right)
        CHECK(shows(sp::window(left, right), docs, [&](auto, index_t q, index_t k) { return -left <= k - q && k - q <= right; }));
  }
}

TEST_CASE("masks: prefixes of every length are disjoint slices") {
  for (index_t n = 0; n <= 7; ++n)
    for (index_t a = 0; a <= n; ++a)
      for (index_t b = 0; b <= 5; ++b) {
        std::vector<index_t> prefix{a, b};
        auto sees = [&](std::size_t d, index_t q, index_t k) { return k <= q || k < prefix[d]; };
        CHECK(shows(sp::prefix_lm(prefix), sp::packed{0, n, n + 5}, sees));
      }
  // with a window: the prefix is seen by everybody, the window holds for the rest
  mask m = sp::window(2, 1);
  m.prefix = {3};
  CHECK(shows(m, sp::packed{0, 10}, [](auto, index_t q, index_t k) { return k < 3 || (q - 2 <= k && k <= q + 1); }));
}

TEST_CASE("masks: image spans see themselves both ways, with and without a window and a prefix [asan]") {
  documents docs = sp::packed{0, 10, 10, 22};
  std::vector<document> spans{{2, 3, 3}, {6, 4, 4}, {12, 5, 5}, {20, 1, 1}};
  auto same_span = [&](std::size_t d, index_t q, index_t k) {
    for (document const& s : spans)
      if (s.begin <= docs[d].begin + q && docs[d].begin + q < s.end() && s.begin <= docs[d].begin + k &&
          docs[d].begin + k < s.end())
        return true;
    return false;
  };
  CHECK(shows(sp::image_spans(spans), docs, [&](std::size_t d, index_t q, index_t k) { return k <= q || same_span(d, q, k); }));
  for (index_t left : {0, 1, 2, 7})
    for (index_t right : {0, 1, 3}) {
      mask m = sp::image_spans(spans);
      m.lo = -left;
      m.hi = right;
      CHECK(shows(m, docs,
                  [&](std::size_t d, index_t q, index_t k) { return (-left <= k - q && k - q <= right) || same_span(d, q, k); }));
      m.prefix = {4, 0, 3};
      CHECK(shows(m, docs, [&](std::size_t d, index_t q, index_t k) {
        return (-left <= k - q && k - q <= right) || same_span(d, q, k) || k < m.prefix[d];
      }));
    }
}

TEST_CASE("masks: cross attention, where queries and keys stand at the begin or at the end of each other") {
  documents q = sp::packed{0, 3, 3, 9, 11}, k = sp::packed{0, 7, 9, 9, 14};
  auto count = [](documents const& d, std::size_t i) { return d[i].count; };
  CHECK(shows(sp::full(), q, k, [](auto, index_t, index_t) { return true; }));
  for (index_t lo : {-4, -1, 0})
    for (index_t hi : {0, 2}) {
      mask m{.lo = lo, .hi = hi, .at = sp::align::begin};
      CHECK(shows(m, q, k, [&](auto, index_t i, index_t j) { return lo <= j - i && j - i <= hi; }));
      m.at = sp::align::end; // the last query stands on the last key: decode with a cache
      CHECK(shows(m, q, k, [&](std::size_t d, index_t i, index_t j) {
        index_t diff = (j - count(k, d)) - (i - count(q, d));
        return lo <= diff && diff <= hi;
      }));
    }
  mask decode{.hi = 0, .at = sp::align::end};
  CHECK(shows(decode, sp::packed{0, 1}, sp::packed{0, 6}, [](auto, index_t, index_t) { return true; }));
  mask m = sp::causal(sp::align::begin);
  m.prefix = {2, 1, 0, 5};
  CHECK(shows(m, q, k, [&](std::size_t d, index_t i, index_t j) { return j <= i || j < m.prefix[d]; }));
}

TEST_CASE("masks: documents whose queries and keys differ in number are refused until somebody says where they stand") {
  documents q = sp::packed{0, 3, 4, 4, 9}, k = sp::packed{0, 3, 11, 14, 14}; // equal; 1 against 8; no query; no key
  std::vector<document> images{{4, 3, 3}};
  for (mask m :
       {sp::causal(), sp::window(2), sp::window(4, 1), mask{.lo = 0}, sp::prefix_lm({0, 8, 0, 0}), sp::image_spans(images)}) {
    auto e = failure_of([&] { return sp::slices(m, q, k); });
    CHECK(says(e, errc::bad_mask, "document 1 has 1 queries and 8 keys"));
    CHECK(e.remedy.find("sp::align::end puts the last query on the last key (decode)") != e.remedy.npos);
    for (auto at : {sp::align::begin, sp::align::end}) {
      m.at = at;
      CHECK(sp::slices(m, q, k).size() >= 1);
    }
  }
  for (mask const& m : {sp::full(), sp::user_slices({{3, 4, 3, 9}})}) CHECK(sp::slices(m, q, k).size() >= 1); // no bounds
  // equal counts stand on each other, wherever the streams have them; a side that is empty sees nothing and is no question
  documents later({{2, 3, 3}, {7, 0, 0}, {9, 2, 2}, {12, 0, 0}}, 12),
      short_keys({{0, 3, 3}, {3, 8, 8}, {11, 2, 2}, {13, 5, 5}}, 18);
  CHECK(shows(sp::causal(), later, short_keys, [](auto, index_t i, index_t j) { return j <= i; }));
  for (auto at : {sp::align::begin, sp::align::end}) {
    CHECK(sp::causal(at) == mask{.hi = 0, .at = at});
    CHECK(sp::window(3, 2, at) == mask{.lo = -3, .hi = 2, .at = at});
    CHECK(sp::prefix_lm({4}, at) == mask{.hi = 0, .at = at, .prefix = {4}});
    CHECK(sp::image_spans(images, at).at == at);
  }
}

TEST_CASE("masks: images of the keys' stream are seen both ways by the queries that stand in them") {
  // eight, five and four keys; the queries are the last three, all five, and the first two
  documents const k({{1, 8, 8}, {10, 5, 5}, {15, 4, 4}}, 20), q({{0, 3, 3}, {4, 5, 5}, {9, 2, 2}}, 12);
  std::vector<document> const images{{3, 5, 5}, {11, 3, 3}, {15, 3, 3}};
  for (auto at : {sp::align::begin, sp::align::end})
    for (index_t left : {index_t{1}, index_t{2}, sp::unbounded})
      for (index_t first : {0, 4}) {
        mask m = sp::image_spans(images, at);
        m.lo = -left;
        m.prefix = {first, 0, 1};
        auto inside = [&](std::size_t d, index_t offset) { return images[d].holds(k[d].begin + offset); };
        CHECK(shows(m, q, k, [&](std::size_t d, index_t i, index_t j) {
          index_t const stands = i + (at == sp::align::end ? k[d].count - q[d].count : 0);
          return (-left <= j - stands && j <= stands) || j < m.prefix[d] || (inside(d, stands) && inside(d, j));
        }));
      }
  std::vector<document> const backwards{{6, -3, 0}};
  CHECK(sp::slices(sp::image_spans(backwards, sp::align::end), q, k).size() == 3); // of no position: nothing is added
}

TEST_CASE("masks: user slices alone do not win over bounds, prefixes and spans: both at once is refused") {
  documents docs = sp::packed{0, 6, 12};
  mask const alone = sp::user_slices({{0, 3, 0, 2}});
  auto refuse = [&](auto change) {
    mask m = alone;
    change(m);
    return failure_of([&] { return sp::slices(m, docs, docs); });
  };
  CHECK(says(refuse([](mask& m) { m.hi = 0; }), errc::bad_mask, "only_user", "bounds -inf <= k - q <= 0"));
  CHECK(says(refuse([](mask& m) { m.lo = -5; }), errc::bad_mask, "only_user", "bounds -5 <= k - q <= inf"));
  CHECK(says(refuse([](mask& m) { m.prefix = {1, 0}; }), errc::bad_mask, "only_user", "2 prefix lengths"));
  CHECK(says(refuse([](mask& m) { m.spans = {{7, 9, 7, 9}}; }), errc::bad_mask, "only_user", "1 image spans"));
  CHECK(says(refuse([](mask& m) {
               m = sp::prefix_lm({3, 3}), m.user = {{0, 3, 4, 6}}, m.only_user = true;
             }),
             errc::bad_mask, "bounds -inf <= k - q <= 0 and 2 prefix lengths"));
  mask beside = sp::prefix_lm({2, 0}); // without only_user they add up
  beside.user = {{0, 2, 3, 5}};
  CHECK(shows(beside, docs,
              [](std::size_t d, index_t q, index_t k) { return k <= q || (d == 0 && (k < 2 || (q < 2 && k >= 3 && k < 5))); }));
}

TEST_CASE("masks: user slices alone and beside a rule") {
  documents docs = sp::packed{0, 6, 12};
  mask m = sp::user_slices({{0, 3, 0, 2}, {3, 6, 1, 5, -3, 1}, {6, 12, 6, 12, 0, 0}, {2, 2, 0, 1}});
  CHECK(shows(m, docs, [](std::size_t d, index_t q, index_t k) {
    if (d == 1) return q == k;
    return (q < 3 && k < 2) || (q >= 3 && 1 <= k && k < 5 && -3 <= k - q && k - q <= 1);
  }));
  mask beside = sp::causal();
  beside.user = {{0, 2, 3, 5}}; // two early queries look ahead
  CHECK(shows(beside, docs, [](std::size_t d, index_t q, index_t k) { return k <= q || (d == 0 && q < 2 && k >= 3 && k < 5); }));
}

TEST_CASE("masks: prefix-LM as overlapping slices counts keys twice and is refused, naming both") {
  documents docs = sp::packed{0, 8};
  mask m = sp::user_slices({{0, 8, 0, 3}, {0, 8, 0, 8, -sp::unbounded, 0}});
  auto e = failure_of([&] { return sp::slices(m, docs, docs); });
  CHECK(says(e, errc::bad_mask, "{q [0, 8), k [0, 3), -inf <= k - q <= inf}", "{q [0, 8), k [0, 8), -inf <= k - q <= 0}",
             "overlap"));

  m = sp::causal();
  m.user = {{4, 5, 2, 3}}; // already visible
  CHECK(says(failure_of([&] { return sp::slices(m, docs, docs); }), errc::bad_mask, "{q [4, 5), k [2, 3)", "k [0, 8)"));

  std::vector<document> spans{{1, 4, 4}, {3, 3, 3}};
  CHECK(says(failure_of([&] { return sp::slices(sp::image_spans(spans), docs, docs); }), errc::bad_mask, "q [1, 5)", "q [3, 6)"));
}

TEST_CASE("masks: every pair of small slices is refused exactly when it shares a cell") {
  documents docs = sp::packed{0, 4};
  std::vector<slice> list;
  for (index_t q0 = 0; q0 < 4; q0 += 2)
    for (index_t q1 = q0 + 1; q1 <= 4; q1 += 2)
      for (index_t k0 = 0; k0 < 4; k0 += 2)
        for (index_t k1 = k0 + 2; k1 <= 4; ++k1)
          for (index_t lo = -2; lo <= 1; ++lo)
            for (index_t hi : {lo, lo + 2}) list.push_back({q0, q1, k0, k1, lo, hi});
  index_t wrong = 0, refused = 0;
  for (slice const& a : list)
    for (slice const& b : list) {
      bool shared = false;
      for (index_t q = 0; q < 4; ++q)
        for (index_t k = 0; k < 4; ++k) shared = shared || (a.sees(q, k) && b.sees(q, k));
      refused += shared;
      wrong += sp::detail::overlap(a, b) == shared ? 0 : 1;
    }
  CHECK(wrong == 0);
  CHECK(refused > 1000);
}

TEST_CASE("masks: slices that overlap are found among others, however many stand between them in any order") {
  documents docs = sp::packed{0, 4, 24};
  // the first sees the last key of the document, the others one key column each: only the last of them meets it
  for (index_t between : {0, 1, 2, 5}) {
    std::vector<slice> list{{4, 8, 4, 24, 16, 19}}; // query q sees keys q + 16 .. q + 19, as far as there are any
    for (index_t k = 0; k <= between; ++k) list.push_back({20, 24, 4 + k, 5 + k});
    CHECK(sp::slices(sp::user_slices(list), docs, docs).size() == list.size());
    list.push_back({5, 6, 22, 23});
    CHECK(says(failure_of([&] { return sp::slices(sp::user_slices(list), docs, docs); }), errc::bad_mask, "q [4, 8), k [4, 24)",
               "q [5, 6), k [22, 23)", "overlap"));
    std::reverse(list.begin(), list.end());
    CHECK(says(failure_of([&] { return sp::slices(sp::user_slices(list), docs, docs); }), errc::bad_mask, "q [4, 8), k [4, 24)",
               "q [5, 6), k [22, 23)", "overlap"));
  }
}

TEST_CASE("masks: reversed and straying slices, prefixes and rules are refused with their numbers") {
  documents docs = sp::packed{0, 4, 9};
  auto refuse = [&](mask const& m) { return failure_of([&] { return sp::slices(m, docs, docs); }); };
  CHECK(says(refuse(sp::user_slices({{3, 1, 0, 4}})), errc::bad_mask, "{q [3, 1), k [0, 4)", "reversed"));
  CHECK(says(refuse(sp::user_slices({{0, 4, 2, 1}})), errc::bad_mask, "k [2, 1)", "reversed"));
  CHECK(says(refuse(sp::user_slices({{0, 4, 0, 4, 2, 1}})), errc::bad_mask, "2 <= k - q <= 1", "reversed"));
  CHECK(says(refuse(sp::user_slices({{2, 6, 2, 6}})), errc::bad_mask, "{q [2, 6), k [2, 6)", "leaves its document"));
  CHECK(says(refuse(sp::user_slices({{0, 4, 4, 9}})), errc::bad_mask, "{q [0, 4), k [4, 9)", "leaves its document"));
  CHECK(says(refuse(sp::user_slices({{0, 10, 0, 10}})), errc::bad_mask, "leaves its document"));
  CHECK(says(refuse(sp::user_slices({{-1, 3, 0, 3}})), errc::bad_mask, "q [-1, 3)", "leaves its document"));
  std::vector<document> span{{3, 3, 3}};
  CHECK(says(refuse(sp::image_spans(span)), errc::bad_mask, "q [3, 6)", "leaves its document"));
  CHECK(says(refuse(sp::prefix_lm({5, 0})), errc::bad_mask, "prefix 5 of document 0 with 4 keys"));
  CHECK(says(refuse(sp::prefix_lm({1, -1})), errc::bad_mask, "prefix -1 of document 1"));
  CHECK(says(refuse(sp::prefix_lm({1})), errc::bad_mask, "1 prefix lengths for 2 documents"));
  CHECK(says(refuse(mask{.lo = 1, .hi = 0}), errc::bad_mask, "lo 1 > hi 0"));
  CHECK(says(refuse(sp::window(-2, 1)), errc::bad_mask, "lo 2 > hi 1"));

  auto e = failure_of([&] { return sp::slices(sp::full(), docs, sp::packed{0, 9}); });
  CHECK(says(e, errc::bad_documents, "2 query documents, 1 key documents"));
}

TEST_CASE("masks: windows wider than any int64 stream do not wrap [asan]") {
  documents docs = sp::packed{0, 5};
  for (index_t wide : {sp::unbounded - 1, sp::unbounded, index_t{1} << 40})
    CHECK(shows(sp::window(wide, 0), docs, [](auto, index_t q, index_t k) { return k <= q; }));
  index_t far = index_t{1} << 40; // a document that begins beyond 2^31
  auto list = sp::slices(sp::window(3, 0), documents({{far, 10, 10, 0}}, far + 10), documents({{0, 10, 10, 0}}, 10));
  REQUIRE(list.size() == 1);
  CHECK(list[0].sees(far + 5, 2));
  CHECK(!list[0].sees(far + 5, 1));
  CHECK(!list[0].sees(far + 5, 6));
}

TEST_CASE("masks: bounds and positions at the ends of int64 mean unbounded or are refused, without overflow [asan]") {
  index_t const least = std::numeric_limits<index_t>::min(), most = std::numeric_limits<index_t>::max();
  documents docs({{3, 5, 5, 0}, {10, 4, 4, 1}}, 16);
  auto same = [&](mask const& a, mask const& b) { return sp::slices(a, docs, docs) == sp::slices(b, docs, docs); };
  CHECK(sp::window(least, most) == mask{.lo = sp::unbounded, .hi = sp::unbounded});
  CHECK(same(sp::window(least, most), sp::window(-sp::unbounded, sp::unbounded)));
  CHECK(same(sp::window(most, most), sp::full()));
  CHECK(same({.lo = least, .hi = most}, sp::full()));
  CHECK(same({.lo = least, .hi = 0, .at = sp::align::end}, sp::causal()));
  std::vector<document> spans{{4, 3, 3}};
  mask pictures = sp::image_spans(spans), lowest = pictures;
  lowest.lo = least;
  CHECK(same(lowest, pictures));
  CHECK(same(sp::user_slices({{3, 8, 3, 8, least, most}}), sp::user_slices({{3, 8, 3, 8}})));

  for (slice const& s : {slice{least, most, 3, 8}, slice{3, 8, least, most}, slice{least, 8, least, 8, least, most},
                         slice{most - 1, most, least, 0}})
    CHECK(says(failure_of([&] { return sp::slices(sp::user_slices({s}), docs, docs); }), errc::bad_mask, "leaves its document"));
  CHECK(sp::slices(sp::user_slices({{least, least, most, most}}), docs, docs).empty());
  std::vector<document> far{{most, 2, 2}};
  CHECK(failure_of([&] { return sp::image_spans(far); }).code == errc::size_overflow);
}

} // namespace
} // namespace test_masks
