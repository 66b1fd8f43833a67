// Dense masks to slices and back: every named mask as the slices it is made of, random masks cell by cell, noise refused.
#include <doctest/doctest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include <sp/geometry/dense_mask.hpp>

#include "support/failure.hpp"

namespace test_dense {
namespace {

using sp::index_t;
using support::failure_of;
using support::says;

/// A mask drawn cell by cell.
struct picture {
  index_t nq, nk;
  std::unique_ptr<bool[]> cells;
  picture(index_t q, index_t k) : nq(q), nk(k), cells(new bool[std::size_t(q * k) + 1]()) {}
  bool& operator()(index_t q, index_t k) { return cells[std::size_t(q * nk + k)]; }
  sp::view<bool const, 2> view() const { return {cells.get(), {nq, nk}}; }
  bool operator==(picture const& o) const {
    bool same = nq == o.nq && nk == o.nk;
    for (index_t i = 0; same && i < nq * nk; ++i) same = cells[std::size_t(i)] == o.cells[std::size_t(i)];
    return same;
  }
};

/// What resolved slices show; a cell shown twice ends in an error of slices() before.
picture drawn(sp::mask const& m, sp::documents const& q, sp::documents const& k) {
  picture p(q.length(), k.length());
  for (sp::slice const& s : sp::slices(m, q, k))
    for (index_t i = s.q0; i < s.q1; ++i)
      for (index_t j = s.k0; j < s.k1; ++j)
        if (s.sees(i, j)) p(i, j) = true;
  return p;
}

/// Draws a mask, reads the picture and compares; returns the slices that took.
std::size_t round_trip(sp::mask const& m, sp::documents const& q, sp::documents const& k) {
  picture p = drawn(m, q, k);
  sp::mask found = sp::dense_mask(p.view(), q, k);
  CHECK(drawn(found, q, k) == p);
  return found.user.size();
}

TEST_CASE("dense: named masks come back as the slices they are made of") {
  sp::packed const docs{0, 7, 7, 24, 40};
  std::size_t const real = 3; // one document is empty
  CHECK(round_trip(sp::full(), docs, docs) == real);
  CHECK(round_trip(sp::causal(), docs, docs) == real);
  for (index_t left : {0, 1, 3, 6, 9, 100})
    for (index_t right : {0, 1, 5, 100}) CHECK(round_trip(sp::window(left, right), docs, docs) == real);
  CHECK(round_trip(sp::prefix_lm({3, 0, 5, 16}), docs, docs) == 5);   // the third prefix is the whole document
  CHECK(round_trip(sp::prefix_lm({1, 0, 1, 0}), docs, docs) == real); // one key of prefix is what causal shows anyway

  std::vector<sp::document> images{{2, 3, 3, 0}, {10, 4, 4, 0}, {15, 2, 2, 0}, {24, 5, 5, 0}, {36, 4, 4, 0}};
  CHECK(round_trip(sp::image_spans(images), docs, docs) <= real + images.size());
}

TEST_CASE("dense: thirty images need one slice each beside the causal one") {
  std::vector<sp::document> images;
  for (index_t i = 0; i < 30; ++i) images.push_back({5 * i + 2, 3, 3, 0});
  sp::packed const doc{0, 160};
  CHECK(round_trip(sp::image_spans(images), doc, doc) == 31);
}

TEST_CASE("dense: queries and keys of different streams") {
  sp::packed const q{0, 3, 8}, k{0, 9, 13};
  CHECK(round_trip(sp::full(), q, k) == 2);
  CHECK(round_trip({.hi = 0, .at = sp::align::end}, q, k) == 2);
  CHECK(round_trip({.lo = -2, .hi = 1, .at = sp::align::end}, q, k) == 2);
}

TEST_CASE("dense: slack and gaps stay dark") {
  sp::documents const docs({{2, 5, 6, 7}, {9, 4, 4, 8}}, 15);
  CHECK(round_trip(sp::causal(), docs, docs) == 2);
  picture dark(15, 15);
  CHECK(sp::dense_mask(dark.view(), docs, docs).user.empty());
  CHECK(sp::slices(sp::dense_mask(dark.view(), docs, docs), docs, docs).empty());
}

TEST_CASE("dense: any single slice is found as one") {
  std::mt19937 random(7);
  auto draw = [&](index_t a, index_t b) { return a + index_t(random() % unsigned(b - a + 1)); };
  bool ok = true;
  for (int i = 0; i < 3000; ++i) {
    index_t n = draw(1, 12), m = draw(1, 12);
    sp::packed const q{0, n}, k{0, m};
    index_t q0 = draw(0, n), k0 = draw(0, m), lo = draw(-12, 12);
    sp::mask one = sp::user_slices({{q0, draw(q0, n), k0, draw(k0, m), lo, draw(lo, 12)}});
    picture p = drawn(one, q, k);
    sp::mask found = sp::dense_mask(p.view(), 1);
    ok = ok && drawn(found, q, k) == p && found.user.size() == sp::slices(one, q, k).size();
  }
  CHECK(ok);
}

TEST_CASE("dense: random sets of slices come back cell by cell, in not many more slices") {
  std::mt19937 random(11);
  auto draw = [&](index_t a, index_t b) { return a + index_t(random() % unsigned(b - a + 1)); };
  bool same = true;
  std::size_t made = 0, found_in_all = 0;
  for (int i = 0; i < 1500; ++i) {
    index_t n = draw(1, 24), m = draw(1, 24);
    sp::packed const q{0, n}, k{0, m};
    std::vector<sp::slice> list;
    for (int tries = 0; tries < 8; ++tries) {
      index_t q0 = draw(0, n), k0 = draw(0, m), lo = draw(-24, 24);
      sp::slice s{q0, draw(q0, n), k0, draw(k0, m), lo, draw(lo, 24)};
      bool free = !s.empty();
      for (sp::slice const& other : list) free = free && !sp::detail::overlap(s, other);
      if (free) list.push_back(s);
    }
    picture p = drawn(sp::user_slices(list), q, k);
    sp::mask found = sp::dense_mask(p.view(), n * m);
    same = same && drawn(found, q, k) == p;
    made += list.size();
    found_in_all += found.user.size();
  }
  CHECK(same);
  CHECK(found_in_all < 2 * made);
}

TEST_CASE("dense: noise is exact under a large limit and refused under a small one") {
  std::mt19937 random(13);
  picture p(20, 20);
  for (index_t i = 0; i < 400; ++i) p.cells[std::size_t(i)] = random() % 2;
  sp::packed const doc{0, 20};
  CHECK(drawn(sp::dense_mask(p.view(), 400), doc, doc) == p);
  CHECK(drawn(sp::dense_mask(p.view(), sp::unbounded), doc, doc) == p);
  CHECK(says(failure_of([&] { return sp::dense_mask(p.view()); }), sp::errc::bad_mask, "document 0", "more than 64 slices"));
  std::size_t needed = sp::dense_mask(p.view(), 400).user.size();
  CHECK(sp::dense_mask(p.view(), index_t(needed)).user.size() == needed);
  CHECK(says(failure_of([&] { return sp::dense_mask(p.view(), index_t(needed) - 1); }), sp::errc::bad_mask,
             "more than " + std::to_string(needed - 1)));
}

TEST_CASE("dense: every cell across documents or in slack is refused") {
  sp::documents const q({{1, 2, 2, 0}, {4, 0, 0, 1}, {5, 2, 2, 2}}, 8), k({{0, 3, 4, 0}, {4, 1, 1, 1}, {5, 2, 2, 2}}, 8);
  for (index_t i = 0; i < 8; ++i)
    for (index_t j = 0; j < 8; ++j) {
      picture p(8, 8);
      p(i, j) = true;
      bool inside = false;
      for (std::size_t d = 0; d < q.size(); ++d)
        inside = inside || (q[d].begin <= i && i < q[d].end() && k[d].begin <= j && j < k[d].end());
      CAPTURE(i);
      CAPTURE(j);
      if (inside)
        CHECK(sp::dense_mask(p.view(), q, k).user.size() == 1);
      else
        CHECK(says(failure_of([&] { return sp::dense_mask(p.view(), q, k); }), sp::errc::bad_mask,
                   "query " + std::to_string(i) + " ", "key " + std::to_string(j) + ","));
    }
}

TEST_CASE("dense: shapes that do not fit the documents") {
  picture p(4, 5);
  CHECK(says(failure_of([&] {
               return sp::dense_mask(p.view(), sp::packed{0, 4}, sp::packed{0, 6});
             }),
             sp::errc::invalid_shape, "(4, 5)", "4 queries", "6 keys"));
  CHECK(says(failure_of([&] {
               return sp::dense_mask(p.view(), sp::packed{0, 4}, sp::packed{0, 2, 5});
             }),
             sp::errc::bad_documents, "1 query documents", "2 key documents"));
  CHECK(says(failure_of([&] { return sp::dense_mask(p.view(), 0); }), sp::errc::bad_mask, "limit of 0"));
  CHECK(sp::dense_mask(picture(0, 0).view()).user.empty());
}

} // namespace
} // namespace test_dense
