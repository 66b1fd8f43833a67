// Grained shardings: every count of units over every number of parts, behind every prefix, is what the outer sharding says of units.
// Merged layouts and batches: whoever owns the rows of a unit owns its token; runs that cut a unit are refused with rank and row.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include <sp/layout/merged.hpp>
#include <sp/layout/tokens.hpp>
#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/grained.hpp>
#include <sp/sharding/nested.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>

#include "support/failure.hpp"

namespace test_grained {
namespace {

using sp::documents;
using sp::errc;
using sp::grained;
using sp::index_t;
using sp::layout;
using sp::run;
using sp::scope;
using support::failure_of;
using support::says;

static_assert(sp::sharding<grained<sp::contiguous>> && sp::sharding<grained<sp::nested<sp::zigzag>>>);
static_assert(grained<sp::contiguous>::is_partition && grained<sp::nested<sp::striped>>::is_partition);
static_assert(grained{sp::contiguous{}, 4}.over == scope::stream && grained{sp::zigzag{}, 4}.over == scope::document);
// 24 patches are 6 units of 4: zigzag over 2 ranks has chunks of 1, 2, 1, 2 units.
static_assert(grained{sp::zigzag{}, 4}.runs(24, 0, 2) == std::vector<run>{{0, 4, 1}, {16, 8, 1}});
static_assert(grained{sp::zigzag{}, 4}.runs(24, 1, 2) == std::vector<run>{{4, 12, 1}});
// Stripes of units; with units of one row they are those of rows.
static_assert(grained{sp::striped{}, 2}.runs(10, 1, 3) == std::vector<run>{{2, 2, 1}, {8, 2, 1}});
static_assert(grained{sp::striped{}, 1}.runs(10, 1, 3) == sp::striped{}.runs(10, 1, 3));
// A prefix belongs to whoever has the first unit, whichever rank that is.
static_assert(grained{sp::contiguous{scope::document}, 4, 3}.runs(7, 1, 2) == std::vector<run>{{0, 7, 1}}); // cut(1, 1, 2) is 0
static_assert(grained{sp::contiguous{scope::document}, 4, 3}.runs(7, 0, 2).empty());

std::vector<index_t> positions(std::span<run const> list) {
  std::vector<index_t> out;
  for (run const& r : list)
    for (index_t i = 0; i < r.count; ++i) out.push_back(r.at(i));
  return out;
}

/// Calls f for every sharding that `parts` ranks can have.
template <class F>
void for_each_outer(index_t parts, F&& f) {
  f(sp::contiguous{scope::document});
  f(sp::zigzag{});
  f(sp::striped{});
  for (index_t inner = 2; inner <= parts; ++inner)
    for (index_t stride : {index_t{1}, parts / inner}) {
      if (parts % (inner * stride) != 0) continue;
      f(sp::nested{sp::zigzag{}, inner, stride});
      f(sp::nested{sp::striped{}, inner, stride});
    }
}

TEST_CASE("grained: every count of units behind every prefix over 1 to 8 ranks is what the outer sharding says of units [asan]") {
  index_t cases = 0, wrong = 0;
  for (index_t parts = 1; parts <= 8; ++parts)
    for (index_t prefix : {0, 1, 3})
      for (index_t grain : {1, 2, 4, 9})
        for (index_t units = 0; units <= 17; ++units)
          for_each_outer(parts, [&](auto const& outer) {
            index_t const n = prefix + units * grain;
            index_t owned = 0;
            for (index_t p = 0; p < parts; ++p, ++cases) {
              auto const mine = positions(outer.runs(units, p, parts));
              bool const has_prefix = units == 0 ? p == 0 : std::find(mine.begin(), mine.end(), 0) != mine.end();
              std::vector<index_t> want;
              for (index_t i = 0; i < prefix && has_prefix; ++i) want.push_back(i);
              for (index_t u : mine)
                for (index_t i = 0; i < grain; ++i) want.push_back(prefix + u * grain + i);
              wrong += positions(grained{outer, grain, prefix}.runs(n, p, parts)) != want;
              owned += index_t(want.size());
            }
            wrong += owned != n;
            wrong += !positions(grained{outer, grain, prefix}.runs(0, 0, parts)).empty(); // a document without rows has no prefix
          });
  CHECK(wrong == 0);
  CHECK(cases > 30000);
}

TEST_CASE("grained: rows that are no units, and prefixes over the stream, are refused with the numbers") {
  auto of = [](auto const& how, index_t n) { return failure_of([&] { return how.runs(n, 0, 2); }); };
  CHECK(says(of(grained{sp::zigzag{}, 4}, 10), errc::uneven_partition, "10 rows", "units of 4"));
  CHECK(says(of(grained{sp::zigzag{}, 4, 3}, 12), errc::uneven_partition, "12 rows", "3 prefix rows"));
  CHECK(says(of(grained{sp::zigzag{}, 1, 3}, 2), errc::uneven_partition, "2 rows", "3 prefix rows"));
  CHECK(says(of(grained{sp::contiguous{}, 4, 1}, 13), errc::uneven_partition, "a prefix of 1", "stream"));
  CHECK(says(of(grained{sp::zigzag{}, 0}, 8), errc::uneven_partition, "units of 0"));
  CHECK(says(of(grained{sp::zigzag{}, 2, -1}, 8), errc::uneven_partition, "prefix of -1"));
  CHECK(says(of(grained{sp::nested{sp::zigzag{}, 3}, 4}, 8), errc::uneven_partition, "2 ranks", "groups of 3"));
  // 6 + 10 rows are 4 units of 4, but the second would take rows of both documents
  CHECK(says(failure_of([] {
               return layout(sp::packed{0, 6, 16}, grained{sp::contiguous{}, 4}, 2);
             }),
             errc::uneven_partition, "6 rows", "units of 4"));
  CHECK(layout(sp::packed{0, 8, 16}, grained{sp::contiguous{}, 4}, 3).tokens(2) == 8);
}

TEST_CASE("grained: padded documents are whole units on every rank, and a prefix cannot be padded") {
  documents const docs = sp::packed{0, 8, 8, 28, 32};
  index_t cases = 0;
  for (int parts = 1; parts <= 8; ++parts) {
    auto check = [&](auto const& how) {
      ++cases;
      sp::batch const one(docs, how, 0, parts, {sp::shapes::padded});
      for (int p = 0; p < parts; ++p) {
        CHECK(one.layout().tokens(p) == one.layout().tokens(0));
        CHECK(sp::merged(one.layout(), 4).tokens(p) * 4 == one.layout().tokens(p));
      }
      CHECK(how.multiple(parts) == how.outer.multiple(parts) * 4);
    };
    check(grained{sp::contiguous{}, 4});
    for_each_outer(parts, [&](auto const& outer) { check(grained{outer, 4}); });
  }
  CHECK(cases > 40);
  CHECK(says(failure_of([] {
               return sp::batch(sp::packed{0, 9}, grained{sp::zigzag{}, 4, 1}, 0, 2, {sp::shapes::padded});
             }),
             errc::uneven_partition, "1 prefix row", "2"));
}

/// Who owns which token, found row by row.
std::vector<std::vector<index_t>> tokens_by_rows(layout const& l, index_t grain, index_t prefix) {
  std::vector<std::vector<index_t>> out(std::size_t(l.parts()));
  for (int p = 0; p < l.parts(); ++p)
    for (index_t at : positions(l.runs(p))) {
      index_t before = 0; // tokens of the documents before
      for (auto const& d : l.docs()) {
        if (at >= d.begin + prefix && at < d.begin + d.room && (at - d.begin - prefix) % grain == 0)
          out[std::size_t(p)].push_back(before + (at - d.begin - prefix) / grain);
        before += d.room > 0 ? (d.room - prefix) / grain : 0;
      }
    }
  return out;
}

TEST_CASE("merged: the token of a unit belongs to whoever owns its rows, in the order of rows [asan]") {
  index_t cases = 0, tokens = 0, wrong = 0;
  std::mt19937 g(7);
  for (index_t prefix : {0, 1, 3})
    for (index_t grain : {1, 4})
      for (int parts = 1; parts <= 8; ++parts)
        for_each_outer(parts, [&](auto const& outer) {
          std::vector<sp::document> list; // with gaps, and documents without rows
          index_t end = index_t(g() % 3);
          for (index_t d = 0; d < 4; ++d) {
            index_t const n = d == 1 ? 0 : prefix + grain * index_t(g() % 9);
            list.push_back({end, n, n, 70 - d});
            end += n + index_t(g() % 2);
          }
          documents const docs(list, end);
          sp::batch const patches(docs, grained{outer, grain, prefix}, int(g() % unsigned(parts)), parts);
          sp::batch const merged = sp::merged(patches, grain, prefix);
          auto const want = tokens_by_rows(patches.layout(), grain, prefix);
          for (int p = 0; p < parts; ++p) {
            wrong += positions(merged.layout().runs(p)) != want[std::size_t(p)];
            tokens += merged.layout().tokens(p);
          }
          CHECK(merged.part() == patches.part());
          CHECK(merged.docs() == merged.source());
          for (std::size_t d = 0; d < docs.size(); ++d) {
            CHECK(merged.docs()[d].id == docs[d].id);
            CHECK(merged.docs()[d].count == (docs[d].count ? (docs[d].count - prefix) / grain : 0));
          }
          ++cases;
        });
  CHECK(wrong == 0);
  CHECK(tokens > 1000);
  CHECK(cases > 200);
}

TEST_CASE("merged: units in any order of rows, prefix rows apart from them, and padded batches") {
  // two documents of one prefix row and three units of two: prefix rows of both first, units in turns
  documents const docs = sp::packed{0, 7, 14};
  layout const owners(docs, {{{0, 1, 1}, {7, 1, 1}, {12, 2, 1}, {1, 2, 1}, {8, 2, 1}}, {{10, 2, 1}, {3, 4, 1}}});
  layout const tokens = sp::merged(owners, 2, 1);
  CHECK(tokens.docs() == documents(sp::packed{0, 3, 6}));
  CHECK(positions(tokens.runs(0)) == std::vector<index_t>{5, 0, 3});
  CHECK(positions(tokens.runs(1)) == std::vector<index_t>{4, 1, 2});
  sp::batch const padded(sp::packed{0, 4, 16}, grained{sp::contiguous{}, 4}, 1, 3, {sp::shapes::padded});
  sp::batch const merged = sp::merged(padded, 4);
  CHECK(merged.source() == documents(sp::packed{0, 1, 4}));
  CHECK(merged.docs()[1].room == 5);
  CHECK(merged.tokens() * 4 == padded.tokens());
  CHECK(sp::real_tokens(merged, 1, 2) == 0);
}

TEST_CASE("merged: a cut through a unit is refused with rank and row, and so are documents that are no units") {
  auto cut = failure_of([] { return sp::merged(layout(sp::packed{0, 8, 20}, sp::contiguous{}, 3), 4); });
  CHECK(says(cut, errc::uneven_partition, "rows 0 to 5 of rank 0", "document 0", "units of 4"));
  CHECK(cut.rank == 0);
  CHECK(cut.remedy.find("grained") != std::string::npos);
  cut = failure_of([] { return sp::merged(layout(sp::packed{0, 8, 20}, grained{sp::contiguous{}, 2}, 3), 4); });
  CHECK(says(cut, errc::uneven_partition, "rank 0"));
  CHECK(says(failure_of([] {
               return sp::merged(layout(sp::packed{0, 8}, sp::striped{}, 2), 4);
             }),
             errc::uneven_partition, "step 2"));
  layout const turned(sp::packed{0, 8}, {{{4, 4, 1}}, {{2, 2, 1}, {0, 2, 1}}}); // whole units, but not in their order
  cut = failure_of([&] { return sp::merged(turned, 4); });
  CHECK(says(cut, errc::uneven_partition, "rows 0 to 1 of rank 1", "rows from 2 on"));
  CHECK(cut.rank == 1);
  layout const shifted(sp::packed{0, 12}, {{{2, 8, 1}}, {{0, 2, 1}, {10, 2, 1}}}); // as many rows as two units
  CHECK(says(failure_of([&] { return sp::merged(shifted, 4); }), errc::uneven_partition, "of rank 0", "rows from 2 on"));
  CHECK(says(failure_of([] {
               return sp::merged(layout(sp::packed{0, 8, 14}, sp::contiguous{}, 1), 4);
             }),
             errc::uneven_partition, "document 1", "6 rows"));
  CHECK(says(failure_of([] {
               return sp::merged(layout(sp::packed{0, 2}, sp::contiguous{}, 1), 1, 3);
             }),
             errc::uneven_partition, "document 0", "3 prefix"));
  CHECK(says(failure_of([] {
               return sp::merged(layout(sp::packed{0, 2}, sp::contiguous{}, 1), 0);
             }),
             errc::invalid_shape, "units of 0"));
  CHECK(sp::merged(layout(sp::packed{0, 8}, sp::striped{}, 2), 1).runs(1)[0] == run{1, 4, 2}); // single rows are any order
}

} // namespace
} // namespace test_grained
