// The block algebra against brute force: for every pair of shardings, documents and masks, the blocks of all pairs of ranks hold
// each visible (query, key) exactly once and nothing else, name the right rows, and no row or key at their rim sees nothing.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <list>
#include <memory_resource>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <sp/layout/layout.hpp>
#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/nested.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>

#include "support/failure.hpp"

namespace test_blocks {
namespace {

using sp::block;
using sp::document;
using sp::documents;
using sp::index_t;
using sp::layout;
using sp::mask;
using sp::placed_run;
using sp::run;
using sp::scope;
using sp::slice;

/// A mask with its definition, written apart: sees(document, q offset, k offset, queries, keys of the document).
struct rule {
  mask made;
  std::function<bool(std::size_t, index_t, index_t, index_t, index_t)> sees;
  bool self_only = false;
};

std::vector<rule> rules(documents const& q, documents const& k) {
  using d = std::size_t;
  constexpr auto begin = sp::align::begin;
  std::vector<rule> out{
      {sp::full(), [](d, index_t, index_t, index_t, index_t) { return true; }},
      {sp::causal(begin), [](d, index_t i, index_t j, index_t, index_t) { return j <= i; }},
      {sp::window(3, 1, begin), [](d, index_t i, index_t j, index_t, index_t) { return i - 3 <= j && j <= i + 1; }},
      {sp::window(1, 0, begin), [](d, index_t i, index_t j, index_t, index_t) { return i - 1 <= j && j <= i; }},
      {mask{.hi = 0, .at = sp::align::end}, [](d, index_t i, index_t j, index_t nq, index_t nk) { return j - nk <= i - nq; }},
  };
  std::vector<index_t> prefix;
  for (document const& x : k) prefix.push_back(x.count / 3);
  out.push_back(
      {sp::prefix_lm(prefix, begin), [prefix](d n, index_t i, index_t j, index_t, index_t) { return j <= i || j < prefix[n]; }});
  if (q != k) return out;
  std::vector<document> spans;
  for (document const& x : q)
    if (x.count > 3) spans.push_back({x.begin + x.count / 3, x.count / 2, x.count / 2});
  auto in_span = [](index_t i, index_t j, index_t n) {
    return n > 3 && n / 3 <= i && i < n / 3 + n / 2 && n / 3 <= j && j < n / 3 + n / 2;
  };
  out.push_back(
      {sp::image_spans(spans), [=](d, index_t i, index_t j, index_t n, index_t) { return j <= i || in_span(i, j, n); }});
  mask narrow = sp::image_spans(spans);
  narrow.lo = -2;
  out.push_back(
      {narrow, [=](d, index_t i, index_t j, index_t n, index_t) { return (i - 2 <= j && j <= i) || in_span(i, j, n); }});
  std::vector<slice> user;
  for (document const& x : q) {
    index_t m = x.count / 2;
    user.push_back({x.begin, x.begin + m, x.begin, x.begin + m, 0, 0});                   // the diagonal
    user.push_back({x.begin + m, x.end(), x.begin, x.begin + m, -sp::unbounded, -m - 1}); // and a corner
  }
  out.push_back({sp::user_slices(user), [](d, index_t i, index_t j, index_t n, index_t) {
                   index_t m = n / 2;
                   return i < m ? i == j : j < m && j - i <= -m - 1;
                 }});
  return out;
}

struct tally {
  index_t cases = 0, pairs = 0, wrong = 0;
  std::string first{}; ///< what went wrong first
  void expect(bool good, std::string const& what) {
    if (good) return;
    if (wrong++ == 0) first = what;
  }
};

/// Positions of a rank's rows in the order of its memory.
std::vector<index_t> rows_of(layout const& l, int part) {
  std::vector<index_t> out;
  for (run const& r : l.runs(part))
    for (index_t i = 0; i < r.count; ++i) out.push_back(r.at(i));
  return out;
}

/// One layout with everything that does not depend on the mask.
struct cut {
  layout of;
  std::vector<std::vector<index_t>> rows;
  std::vector<std::vector<placed_run>> runs;
  std::string name;
  cut(layout l, std::string n) : of(std::move(l)), name(std::move(n)) {
    for (int p = 0; p < of.parts(); ++p) {
      rows.push_back(rows_of(of, p));
      runs.push_back(sp::place(of.runs(p), p));
    }
  }
};

/// All shardings of `docs` over P ranks; a few only where `all` is not asked for.
std::vector<cut> cuts(documents const& docs, int parts, bool all) {
  std::vector<cut> out;
  auto add = [&](auto how, std::string name) { out.emplace_back(layout(docs, how, parts), std::move(name)); };
  add(sp::contiguous{}, "contiguous");
  add(sp::zigzag{}, "zigzag");
  add(sp::striped{}, "striped");
  if (!all) return out;
  add(sp::contiguous{scope::document}, "contiguous per document");
  add(sp::zigzag{scope::stream}, "zigzag over the stream");
  add(sp::striped{scope::stream}, "striped over the stream");
  if (parts % 2 == 0) add(sp::nested{sp::zigzag{}, 2}, "zigzag / 2");
  if (parts % 2 == 0 && parts > 2) add(sp::nested{sp::striped{}, 2, parts / 2}, "striped / 2, strided");
  return out;
}

/// The blocks of a rank's queries against a rank's keys: bounds, places, rims; marks what they show.
void mark(std::vector<block> const& list, cut const& q, cut const& k, std::vector<int>& shown, tally& t,
          std::string const& name) {
  for (block const& b : list) {
    auto const &q_rows = q.rows[std::size_t(b.q_tensor)], &k_rows = k.rows[std::size_t(b.k_tensor)];
    bool inside = b.rows > 0 && b.keys > 0 && b.q >= 0 && b.k >= 0 && b.q + b.rows <= index_t(q_rows.size()) &&
                  b.k + b.keys <= index_t(k_rows.size());
    t.expect(inside, name + ": a block leaves its tensors");
    if (!inside) continue;
    index_t nk = k.of.docs().length(), seen_pairs = 0;
    for (index_t i = 0; i < b.rows; ++i) {
      index_t qp = q_rows[std::size_t(b.q + i)];
      t.expect(qp == b.q_pos + i * b.q_stride, name + ": a row has another position");
      sp::interval seen = b.keys_seen_by(i);
      if (i == 0 || i == b.rows - 1) t.expect(seen.count > 0, name + ": a dead row at the rim");
      seen_pairs += seen.count;
      for (index_t j = 0; j < b.keys; ++j) {
        index_t kp = k_rows[std::size_t(b.k + j)];
        if (i == 0) t.expect(kp == b.k_pos + j * b.k_stride, name + ": a key has another position");
        bool sees = b.lo <= kp - qp && kp - qp <= b.hi;
        if (sees) ++shown[std::size_t(qp * nk + kp)];
        if (sees != b.sees(i, j) || sees != (seen.first <= j && j < seen.first + seen.count))
          t.expect(false, name + ": sees() and keys_seen_by() differ");
      }
    }
    for (index_t j : {index_t{0}, b.keys - 1}) {
      sp::interval by = b.rows_seeing(j);
      index_t n = 0;
      for (index_t i = 0; i < b.rows; ++i) {
        n += b.sees(i, j);
        if (b.sees(i, j) != (by.first <= i && i < by.first + by.count))
          t.expect(false, name + ": sees() and rows_seeing() differ");
      }
      t.expect(n > 0, name + ": a dead key at the rim");
    }
    t.expect(sp::pair_count(b) == seen_pairs && b.is_full() == (seen_pairs == b.rows * b.keys), name + ": work or is_full");
    t.pairs += seen_pairs;
  }
}

std::vector<char> wanted(rule const& r, documents const& q, documents const& k) {
  std::vector<char> out(std::size_t(q.length() * k.length()));
  for (std::size_t d = 0; d < q.size(); ++d)
    for (index_t i = 0; i < q[d].count; ++i)
      for (index_t j = 0; j < k[d].count; ++j)
        out[std::size_t((q[d].begin + i) * k.length() + k[d].begin + j)] = r.sees(d, i, j, q[d].count, k[d].count);
  return out;
}

void check_pair(cut const& q, cut const& k, std::vector<slice> const& mask, std::vector<char> const& want, tally& t,
                std::string const& name) {
  std::vector<int> shown(want.size());
  for (auto const& a : q.runs)
    for (auto const& b : k.runs) mark(sp::blocks(a, b, mask), q, k, shown, t, name);
  ++t.cases;
  for (std::size_t i = 0; i < want.size(); ++i)
    if (shown[i] != want[i])
      return t.expect(false, name + ": pair " + std::to_string(i) + " is shown " + std::to_string(shown[i]) + " times");
}

void check_documents(documents const& q, documents const& k, int parts, bool all, tally& t) {
  auto q_cuts = cuts(q, parts, all), k_cuts = cuts(k, parts, all);
  int number = 0;
  for (rule const& r : rules(q, k)) {
    auto mask = sp::slices(r.made, q, k);
    auto want = wanted(r, q, k);
    for (cut const& a : q_cuts)
      for (cut const& b : k_cuts)
        check_pair(a, b, mask, want, t,
                   a.name + " x " + b.name + " over " + std::to_string(parts) + ", rule " + std::to_string(number));
    ++number;
  }
}

// docs/semantics.md, Zigzag: zigzag of 4 ranks over 16 tokens, chunks of 2; rank 1 holds chunks 1 and 6.
constexpr slice causal_16{0, 16, 0, 16, -sp::unbounded, 0, 0, 0, 0, 0};
constexpr std::array<placed_run, 2> zigzag_of(index_t r) {
  return {{{{2 * r, 2, 1}, int(r), 0}, {{14 - 2 * r, 2, 1}, int(r), 2}}};
}
constexpr index_t zigzag_pairs(index_t q, index_t k) {
  return sp::pair_count(sp::blocks(zigzag_of(q), zigzag_of(k), {&causal_16, 1}));
}
static_assert(zigzag_pairs(1, 1) == 3 + 4 + 3); // causal on both halves, and the late half sees the whole early one
static_assert(zigzag_pairs(1, 0) == 4 * 2);     // keys of an earlier rank: all q x first half
static_assert(zigzag_pairs(1, 3) == 2 * 4);     // of a later rank: second half of q x all keys
static_assert(zigzag_pairs(0, 0) == zigzag_pairs(3, 3));

// docs/semantics.md, Stripes: stripes of 4 ranks over 16 tokens.
constexpr placed_run stripe_of(index_t r) { return {{r, 4, 4}, int(r), 0}; }
constexpr block stripes(index_t q, index_t k) {
  placed_run a = stripe_of(q), b = stripe_of(k);
  return sp::blocks({&a, 1}, {&b, 1}, {&causal_16, 1}).at(0);
}
static_assert(sp::local_band(stripes(2, 1)) == sp::band{-sp::unbounded, 0}); // s <= r: j <= i
static_assert(sp::local_band(stripes(2, 2)) == sp::band{-sp::unbounded, 0});
static_assert(stripes(1, 2).q == 1 && stripes(1, 2).rows == 3 &&
              stripes(1, 2).keys == 3); // s > r: j < i, so row 0 and the last key vanish
static_assert(sp::local_band(stripes(1, 2)) == sp::band{-sp::unbounded, 0});

TEST_CASE("blocks: every pair of shardings covers every mask exactly once, one document of every length") {
  tally t;
  for (index_t n = 0; n <= 24; n += n < 9 ? 1 : 3)
    for (int parts = 1; parts <= 8; ++parts) check_documents(sp::packed{0, n}, sp::packed{0, n}, parts, n % 2 == 0, t);
  CHECK_MESSAGE(t.wrong == 0, t.first);
  CHECK(t.cases > 10000);
}

TEST_CASE("blocks: ragged and empty documents, gaps and slack, every pair of shardings") {
  tally t;
  std::vector<documents> streams{sp::packed{0, 0, 7, 8, 8, 21}, sp::packed{0, 1, 2, 3, 4, 5}, sp::packed{0, 13, 13},
                                 documents({{2, 5, 6, 7}, {9, 0, 0, 8}, {10, 8, 11, 9}}, 23)};
  for (documents const& d : streams)
    for (int parts = 1; parts <= 8; ++parts) check_documents(d, d, parts, parts != 5 && parts != 7, t);
  CHECK_MESSAGE(t.wrong == 0, t.first);
  CHECK(t.cases > 5000);
}

TEST_CASE("blocks: queries and keys of different streams, aligned at begin and end") {
  tally t;
  std::vector<std::pair<documents, documents>> both{{sp::packed{0, 4, 9}, sp::packed{0, 11, 12}},
                                                    {sp::packed{0, 0, 6, 7}, sp::packed{0, 5, 5, 14}},
                                                    {sp::packed{0, 1, 2}, sp::packed{0, 9, 18}}};
  for (auto const& [q, k] : both)
    for (int parts = 1; parts <= 8; ++parts) check_documents(q, k, parts, true, t);
  CHECK_MESSAGE(t.wrong == 0, t.first);
  CHECK(t.cases > 5000);
}

TEST_CASE("blocks: a rank's queries against the table of everybody's keys [asan]") {
  tally t;
  documents docs = sp::packed{0, 9, 9, 22};
  for (int parts : {1, 3, 4, 8})
    for (cut const& q : cuts(docs, parts, true))
      for (cut const& k : cuts(docs, parts, true))
        for (rule const& r : rules(docs, docs)) {
          auto mask = sp::slices(r.made, docs, docs);
          auto want = wanted(r, docs, docs);
          std::vector<int> shown(want.size());
          auto table = sp::table_of(k.of);
          for (std::size_t i = 1; i < table.size(); ++i)
            t.expect(table[i - 1].positions.begin < table[i].positions.begin, "the table is out of order");
          for (auto const& a : q.runs) mark(sp::blocks(a, table, mask), q, k, shown, t, q.name + " against the table");
          t.expect(std::equal(shown.begin(), shown.end(), want.begin(), [](int a, char b) { return a == b; }),
                   q.name + " x table of " + k.name);
        }
  CHECK_MESSAGE(t.wrong == 0, t.first);
  CHECK(t.pairs > 100000);
}

TEST_CASE("blocks: work of all ranks is the number of visible pairs; zigzag and stripes are balanced") {
  index_t n = 64, parts = 4;
  documents docs = sp::packed{0, n};
  auto mask = sp::slices(sp::causal(), docs, docs);
  auto work_of = [&](auto how, int p) {
    layout l(docs, how, int(parts));
    return sp::pair_count(sp::blocks(sp::place(l.runs(p)), sp::table_of(l), mask));
  };
  index_t total = n * (n + 1) / 2, contiguous = 0, zigzag = 0, striped = 0;
  for (int p = 0; p < parts; ++p) {
    contiguous += work_of(sp::contiguous{}, p);
    zigzag += work_of(sp::zigzag{}, p);
    striped += work_of(sp::striped{}, p);
    CHECK(work_of(sp::zigzag{}, p) == total / parts); // 520 each
    CHECK(std::abs(work_of(sp::striped{}, p) - total / parts) <= n / parts * 2);
  }
  CHECK(contiguous == total);
  CHECK(zigzag == total);
  CHECK(striped == total);
  CHECK(work_of(sp::contiguous{}, 3) == 16 * 48 + 16 * 17 / 2); // nearly twice the mean
}

TEST_CASE("blocks: zigzag over 4 ranks, as docs/semantics.md lists it [asan]") {
  layout l(sp::packed{0, 16}, sp::zigzag{}, 4);
  auto mask = sp::slices(sp::causal(), l.docs(), l.docs());
  for (int r = 0; r < 4; ++r)
    for (int s = 0; s < 4; ++s) {
      auto list = sp::blocks(sp::place(l.runs(r)), sp::place(l.runs(s)), mask);
      index_t n = 0;
      for (block const& b : list) {
        n += sp::pair_count(b);
        if (s < r) CHECK((b.is_full() && b.k + b.keys <= 2)); // first-half keys only
        if (s > r) CHECK((b.is_full() && b.q >= 2));          // second-half queries only
      }
      CHECK(n == (s == r ? 10 : 8));
      if (r + 1 == 4 && s == r) continue; // chunks 3 and 4 are neighbours: one run, one block
      CHECK(list.size() == (s == r ? 3 : r == 3 ? 1 : s == 3 ? 1 : 2));
    }
}

TEST_CASE("blocks: local_band says the same as sees() wherever the strides agree") {
  index_t bands = 0, wrong = 0, refused = 0;
  for (index_t rows = 1; rows <= 4; ++rows)
    for (index_t keys = 1; keys <= 4; ++keys)
      for (index_t qs = 1; qs <= 3; ++qs)
        for (index_t ks = 1; ks <= 3; ++ks)
          for (index_t shift = -4; shift <= 4; shift += 2)
            for (index_t lo : {-sp::unbounded, index_t{-5}, index_t{-2}, index_t{0}, index_t{1}})
              for (index_t hi : {index_t{-3}, index_t{0}, index_t{2}, sp::unbounded}) {
                block b{0, 0, rows, 0, 0, keys, 10, qs, 10 + shift, ks, lo, hi};
                auto band = sp::local_band(b);
                refused += !band;
                if (!band) {
                  wrong += qs != ks && rows > 1 && keys > 1 ? 0 : 1;
                  continue;
                }
                ++bands;
                for (index_t i = 0; i < rows; ++i)
                  for (index_t j = 0; j < keys; ++j) wrong += b.sees(i, j) == (band->lo <= j - i && j - i <= band->hi) ? 0 : 1;
                if (b.is_full()) wrong += *band == sp::band{} ? 0 : 1;
              }
  CHECK(wrong == 0);
  CHECK(bands == 9000);
  CHECK(refused == 5400);
}

TEST_CASE("blocks: stripes that a narrow window never joins give no block") {
  documents docs = sp::packed{0, 40};
  layout l(docs, sp::striped{}, 8);
  auto diagonal = sp::slices(sp::window(0, 0), docs, docs), near = sp::slices(sp::window(2, 0), docs, docs);
  for (int r = 0; r < 8; ++r)
    for (int s = 0; s < 8; ++s) {
      CHECK(sp::blocks(sp::place(l.runs(r)), sp::place(l.runs(s)), diagonal).size() == (r == s ? 1 : 0));
      CHECK(sp::blocks(sp::place(l.runs(r)), sp::place(l.runs(s)), near).size() == ((r - s + 8) % 8 <= 2 ? 1 : 0));
    }
}

TEST_CASE("blocks: coalesce joins what continues affinely and keeps every pair [asan]") {
  index_t before = 0, after = 0, wrong = 0;
  documents docs = sp::packed{0, 10, 10, 25};
  std::vector<mask> masks;
  for (rule const& r : rules(docs, docs)) masks.push_back(r.made);
  masks.push_back(sp::user_slices(
      {{0, 10, 0, 4}, {0, 10, 4, 10}, {10, 25, 10, 18}, {10, 20, 18, 25}, {20, 25, 18, 25}})); // cut for no reason
  for (int parts : {1, 2, 3, 4, 8})
    for (cut const& q : cuts(docs, parts, true))
      for (cut const& k : cuts(docs, parts, true))
        for (mask const& m : masks) {
          auto mask = sp::slices(m, docs, docs);
          for (auto const& a : q.runs)
            for (auto const& b : k.runs) {
              auto list = sp::blocks(a, b, mask), joined = sp::coalesce(list);
              before += index_t(list.size());
              after += index_t(joined.size());
              tally t;
              std::vector<int> one(std::size_t(25 * 25)), two(one);
              for (block const& x : list)
                for (index_t i = 0; i < x.rows; ++i)
                  for (index_t j = 0; j < x.keys; ++j)
                    one[std::size_t((x.q_pos + i * x.q_stride) * 25 + x.k_pos + j * x.k_stride)] += x.sees(i, j);
              for (block const& x : joined)
                for (index_t i = 0; i < x.rows; ++i)
                  for (index_t j = 0; j < x.keys; ++j) {
                    index_t qp = x.q_pos + i * x.q_stride, kp = x.k_pos + j * x.k_stride;
                    two[std::size_t(qp * 25 + kp)] += x.sees(i, j);
                    wrong += q.rows[std::size_t(x.q_tensor)][std::size_t(x.q + i)] == qp &&
                                     k.rows[std::size_t(x.k_tensor)][std::size_t(x.k + j)] == kp
                                 ? 0
                                 : 1;
                  }
              wrong += one == two ? 0 : 1;
            }
        }
  CHECK(wrong == 0);
  CHECK(after < before);

  // prefix and rest of a full mask in one piece: two blocks become one
  std::vector<placed_run> rows{{{0, 8, 1}, 0, 0}};
  std::vector<slice> halves{{0, 8, 0, 3}, {0, 8, 3, 8}};
  auto joined = sp::coalesce(sp::blocks(rows, rows, halves));
  REQUIRE(joined.size() == 1);
  CHECK(sp::pair_count(joined) == 64);
}

TEST_CASE("blocks: documents carry index, name and origins into the block") {
  documents docs({{2, 5, 5, 70}, {9, 6, 6, 71}}, 16);
  layout l(docs, sp::zigzag{}, 2);
  auto mask = sp::slices(sp::causal(), docs, docs);
  index_t seen[2] = {0, 0};
  for (int r = 0; r < 2; ++r)
    for (block const& b : sp::blocks(sp::place(l.runs(r), r), sp::table_of(l), mask)) {
      auto d = std::size_t(b.document);
      REQUIRE(d < 2);
      ++seen[d];
      CHECK(b.id == 70 + b.document);
      CHECK(b.q_origin == docs[d].begin);
      CHECK(b.k_origin == docs[d].begin);
      CHECK(b.q_tensor == r);
      CHECK((docs[d].begin <= b.q_pos && b.q_pos + (b.rows - 1) * b.q_stride < docs[d].end()));
    }
  CHECK(seen[0] > 0);
  CHECK(seen[1] > 0);
}

TEST_CASE("blocks: work over int64 is size_overflow") {
  block b{0, 0, index_t{1} << 40, 0, 0, index_t{1} << 40};
  CHECK(support::failure_of([&] { return sp::pair_count(b); }).code == sp::errc::size_overflow);
}

/// The definition of for_each_block: every slice against every pair of runs, in the order of the lists.
std::vector<block> all_pairs(std::vector<placed_run> const& q, std::vector<placed_run> const& k, std::vector<slice> const& mask) {
  std::vector<block> out;
  for (slice const& s : mask)
    for (placed_run const& a : q)
      for (placed_run const& b : k)
        for (block const& x : sp::blocks({&a, 1}, {&b, 1}, {&s, 1})) out.push_back(x);
  return out;
}

TEST_CASE("blocks: sorted or not, lists give the blocks of every pair in the order of the lists [asan]") {
  documents docs = sp::packed{0, 9, 9, 10, 31, 40};
  std::mt19937 random(3);
  index_t cases = 0, wrong = 0;
  for (rule const& r : rules(docs, docs))
    for (int parts : {1, 3, 4})
      for (cut const& c : cuts(docs, parts, true)) {
        auto mask = sp::slices(r.made, docs, docs);
        std::vector<placed_run> table = sp::table_of(c.of), mine = c.runs.back();
        for (int shuffles = 0; shuffles < 4;
             ++shuffles) { // first everything sorted, then the mask shuffled, then the runs as well
          wrong += sp::blocks(mine, table, mask) == all_pairs(mine, table, mask) ? 0 : 1;
          wrong += sp::blocks(table, mine, mask) == all_pairs(table, mine, mask) ? 0 : 1;
          ++cases;
          std::shuffle(mask.begin(), mask.end(), random);
          if (shuffles > 0) std::shuffle(table.begin(), table.end(), random);
        }
      }
  CHECK(wrong == 0);
  CHECK(cases > 500);
}

TEST_CASE("blocks: a step over many documents does not hold every run against every document") {
  std::vector<index_t> cu{0};
  for (index_t d = 0; d < 100000; ++d) cu.push_back(cu.back() + 20 + d % 7);
  documents docs = documents::packed(cu);
  layout l(docs, sp::zigzag{}, 4);
  std::vector<slice> mask;
  for (document const& d : docs) mask.push_back({d.begin, d.end(), d.begin, d.end(), -sp::unbounded, 0});
  for (std::size_t d = 0; d < mask.size(); ++d) mask[d].document = index_t(d);
  auto list = sp::blocks(sp::place(l.runs(2), 2), sp::place(l.runs(1), 1), mask); // every pair: 100000 x 200000 steps, a minute
  CHECK(list.size() == 200000);                                                   // chunks 2 and 5 see chunk 1, never chunk 6
  CHECK(sp::coalesce(list) == list);                                              // nothing joins, and soon
}

TEST_CASE("blocks: coalesce keeps every pair of drawn blocks that touch, whatever strides and bounds they have [asan]") {
  std::mt19937 g(5);
  auto draw = [&](index_t a, index_t b) { return a + index_t(g() % unsigned(b - a + 1)); };
  /// Pieces of one side of a list: rows and positions go on where the last piece ends, at times with another stride or a gap.
  auto side = [&] {
    std::vector<placed_run> out;
    index_t row = 0, position = 0;
    for (index_t n = draw(2, 3); n > 0; --n) {
      index_t const count = draw(1, 3), stride = draw(1, 2);
      out.push_back({{position, count, stride}, 0, row});
      row += count + (draw(0, 4) == 0);
      position += draw(0, 4) ? count * stride : count * stride + 1;
    }
    return out;
  };
  using pair = std::array<index_t, 4>; // row, key and their positions
  auto pairs = [](std::vector<block> const& list) {
    std::vector<pair> out;
    for (block const& x : list)
      for (index_t i = 0; i < x.rows; ++i)
        for (index_t j = 0; j < x.keys; ++j)
          if (x.sees(i, j)) out.push_back({x.q + i, x.k + j, x.q_pos + i * x.q_stride, x.k_pos + j * x.k_stride});
    std::sort(out.begin(), out.end());
    return out;
  };
  index_t wrong = 0, joined = 0;
  for (int i = 0; i < 3000; ++i) {
    auto const q = side(), k = side();
    index_t const hi = draw(0, 6), one = draw(0, 3);
    std::vector<block> list;
    for (placed_run const& a : q)
      for (placed_run const& b : k)
        list.push_back({0, a.row, a.positions.count, 0, b.row, b.positions.count, a.positions.begin, a.positions.stride,
                        b.positions.begin, b.positions.stride, -sp::unbounded, one == 0 ? hi : draw(hi, hi + 1)});
    auto const less = sp::coalesce(list);
    wrong += pairs(less) != pairs(list);
    joined += less.size() < list.size();
  }
  CHECK(wrong == 0);
  CHECK(joined > 1000);
}

// what grows and holds the entries is a list of them, near misses are not
static_assert(sp::list_of<std::vector<block>, block> && sp::list_of<std::pmr::vector<sp::placed_run>, sp::placed_run>);
static_assert(!sp::list_of<std::vector<sp::run>, block> && !sp::list_of<std::vector<block> const, block>);
static_assert(!sp::list_of<std::array<block, 4>, block> && !sp::list_of<std::span<block>, block>);
static_assert(!sp::list_of<std::list<block>, block> && !sp::list_of<block*, block>);

TEST_CASE("blocks: lists come in whatever vector the caller asks for") {
  using rows = std::pmr::vector<sp::placed_run>;
  using list = std::pmr::vector<sp::block>;
  std::vector<sp::run> const runs{{0, 4, 1}, {4, 0, 1}, {4, 4, 1}};
  sp::slice s;
  s.q0 = s.k0 = 0;
  s.q1 = s.k1 = 8;
  auto same = [](auto const& a, auto const& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); };
  rows const placed = sp::place<rows>(runs);
  CHECK(same(placed, sp::place(runs)));
  list const found = sp::blocks<list>(placed, placed, {&s, 1});
  CHECK(found.size() == 4);
  CHECK(same(found, sp::blocks(placed, placed, {&s, 1})));
  list const joined = sp::coalesce(found);
  CHECK(joined.size() == 1);
  CHECK(same(joined, sp::coalesce(sp::blocks(placed, placed, {&s, 1}))));
}

TEST_CASE("blocks: coalesce of thousands of blocks that join in two directions is one block") {
  index_t const n = 80;
  std::vector<block> list;
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) list.push_back({0, i * 3, 3, 0, j * 2, 2, i * 3, 1, j * 2, 1});
  std::shuffle(list.begin(), list.end(), std::mt19937(1));
  auto joined = sp::coalesce(list);
  REQUIRE(joined.size() == 1);
  CHECK(joined[0].rows == 3 * n);
  CHECK(joined[0].keys == 2 * n);
  CHECK(joined[0].q_pos == 0);
}

} // namespace
} // namespace test_blocks
