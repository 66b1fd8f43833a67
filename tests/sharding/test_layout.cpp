// Layouts and batches: everybody's runs are a partition of the documents, owners and groups follow, padded and equal shapes hold.
// All of it is arithmetic: no communication, every rank computes the same.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include <sp/batch.hpp>

#include "support/failure.hpp"
#include "support/row_order.hpp"

namespace test_layout {
namespace {

using sp::documents;
using sp::errc;
using sp::index_t;
using sp::layout;
using sp::run;
using sp::scope;
using support::failure_of;
using support::says;

std::vector<index_t> positions(std::span<run const> list) {
  std::vector<index_t> out;
  for (run const& r : list)
    for (index_t i = 0; i < r.count; ++i) out.push_back(r.at(i));
  return out;
}

/// Each room position of the documents has one owner, owner_of names it with its row, and gaps have none.
bool consistent(layout const& l) {
  std::vector<sp::owner> want(std::size_t(l.docs().length()));
  for (int p = 0; p < l.parts(); ++p) {
    auto mine = positions(l.runs(p));
    if (index_t(mine.size()) != l.tokens(p)) return false;
    for (std::size_t i = 0; i < mine.size(); ++i) {
      if (mine[i] < 0 || mine[i] >= l.docs().length() || want[std::size_t(mine[i])].part >= 0) return false;
      want[std::size_t(mine[i])] = {p, index_t(i)};
    }
  }
  std::vector<char> room(want.size(), 0);
  for (auto const& d : l.docs())
    for (index_t i = d.begin; i < d.begin + d.room; ++i) room[std::size_t(i)] = 1;
  for (std::size_t i = 0; i < want.size(); ++i)
    if ((want[i].part >= 0) != (room[i] == 1) || l.owner_of(index_t(i)) != want[i]) return false;
  return l.owner_of(l.docs().length()) == sp::owner{} && l.owner_of(-1) == sp::owner{};
}

std::vector<documents> streams() {
  return {sp::packed{0, 0, 7, 8, 8, 21},
          sp::packed{0, 1, 2, 3, 4},
          sp::packed{0, 40},
          sp::packed{0},
          sp::packed{0, 0, 0},
          documents({{2, 5, 6, 7}, {9, 0, 0, 8}, {10, 8, 11, 9}}, 25),
          documents::rectangular(3, 7)};
}

template <class F>
void for_each_sharding(int parts, F&& f) {
  for (scope over : {scope::document, scope::stream}) {
    f(sp::contiguous{over});
    f(sp::zigzag{over});
    f(sp::striped{over});
  }
  for (int inner = 2; inner <= parts; ++inner)
    if (parts % inner == 0) {
      f(sp::nested{sp::zigzag{}, inner});
      f(sp::nested{sp::striped{}, inner, parts / inner});
    }
}

TEST_CASE("layout: every sharding of every stream is a partition with the right owners [asan]") {
  index_t cases = 0;
  for (documents const& d : streams())
    for (int parts = 1; parts <= 8; ++parts)
      for_each_sharding(parts, [&](auto const& how) {
        ++cases;
        CHECK(consistent(layout(d, how, parts)));
      });
  CHECK(cases > 300);
}

TEST_CASE("layout: from the runs themselves, in the order in which they are given [asan]") {
  documents const docs({{2, 5, 6, 7}, {9, 0, 0, 8}, {10, 8, 11, 9}}, 25); // 2..7 and 10..20
  layout const l(docs, {{{10, 2, 1}, {12, 1, 1}, {2, 1, 1}, {4, 1, 1}}, {}, {{14, 4, 2}, {3, 2, 2}, {13, 4, 2}, {6, 2, 1}}});
  CHECK(consistent(l));
  CHECK(positions(l.runs(0)) == std::vector<index_t>{10, 11, 12, 2, 4});
  CHECK(l.runs(0).size() == 3); // joined where it goes on
  CHECK(l.runs(1).empty());
  CHECK(positions(l.runs(2)) == std::vector<index_t>{14, 16, 18, 20, 3, 5, 13, 15, 17, 19, 6, 7});
  CHECK(positions(l.grouped(3, 1).runs(0)) == // the group sees its tokens in stream order all the same
        std::vector<index_t>{2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20});
  index_t cases = 0;
  for (documents const& d : streams())
    for (int parts = 1; parts <= 8; ++parts)
      for_each_sharding(parts, [&](auto const& how) {
        layout const made(d, how, parts), turned = support::shuffled(made, std::uint64_t(++cases));
        CHECK(consistent(turned));
        for (int p = 0; p < parts; ++p) CHECK(turned.tokens(p) == made.tokens(p));
      });
  CHECK(cases > 300);
}

TEST_CASE("layout: runs that are no partition of the rooms are refused with the part and the position") {
  documents const docs({{2, 5, 6, 7}, {10, 8, 11, 9}}, 25);
  auto of = [&](std::vector<std::vector<run>> runs) { return failure_of([&] { return layout(docs, runs); }); };
  run const a{2, 6, 1}, b{10, 11, 1};
  CHECK(layout(docs, {{b}, {a}}).parts() == 2);
  CHECK(says(of({}), errc::invalid_shape, "0 ranks"));
  CHECK(says(of({{a}, {{10, 12, 1}}}), errc::uneven_partition, "part 1", "{10, 12, 1}")); // a position behind the room
  CHECK(says(of({{{2, 19, 1}}}), errc::uneven_partition, "part 0", "{2, 19, 1}"));        // over a gap
  CHECK(says(of({{{1, 7, 1}}, {b}}), errc::uneven_partition, "part 0"));                  // before the first document
  CHECK(says(of({{a}, {{10, 12, 2}}}), errc::uneven_partition, "part 1"));                // behind the stream
  CHECK(says(of({{a}, {{-5, 3, 5}}}), errc::uneven_partition, "{-5, 3, 5}"));
  CHECK(says(of({{a}, {{10, 2, 0}}}), errc::uneven_partition, "{10, 2, 0}"));
  CHECK(says(of({{a}, {{10, -1, 1}}}), errc::uneven_partition, "{10, -1, 1}"));
  CHECK(says(of({{a}, {{5, index_t{1} << 62, 1}}}), errc::uneven_partition, "part 1"));
  CHECK(says(of({{a}, {b, {13, 1, 1}}}), errc::uneven_partition, "position 13", "of part 1"));
  CHECK(says(of({{a}, {{10, 6, 2}}, {{11, 5, 2}}, {{16, 2, 3}}}), errc::uneven_partition, "position 16", "part 1", "part 3"));
  CHECK(says(of({{a}, {{10, 10, 1}}}), errc::uneven_partition, "16 of 17"));
}

TEST_CASE("batch: of a layout, over the same documents and no others") {
  documents const docs = sp::packed{0, 3, 10};
  layout const owners(docs, {{{3, 1, 1}, {0, 2, 1}}, {{6, 4, 1}, {2, 1, 1}, {4, 2, 1}}});
  sp::batch const b(docs, owners, 1, {.token_digest = 7});
  CHECK(b.tokens() == 7);
  CHECK(b.parts() == 2);
  CHECK(b.token_digest() == 7);
  CHECK(positions(b.runs()) == std::vector<index_t>{6, 7, 8, 9, 2, 4, 5});
  CHECK(sp::real_tokens(b, 0, 0) == 2);
  documents const roomy = docs.padded(4); // 0..3 and 4..11
  sp::batch const padded(docs, layout(roomy, {{{4, 6, 1}}, {{0, 4, 1}, {10, 2, 1}}}), 0, {sp::shapes::padded});
  CHECK(padded.source() == docs);
  CHECK(padded.docs() == roomy);
  CHECK(sp::real_tokens(padded, 1, 0) == 6);
  CHECK(sp::real_tokens(padded, 1, 1) == 1);
  auto refused = [&](documents const& source, int part, sp::shapes local = sp::shapes::ragged) {
    return failure_of([&] { return sp::batch(source, owners, part, {local}); });
  };
  CHECK(says(refused(docs, 2), errc::invalid_shape, "part 2 of 2"));
  CHECK(says(refused(docs, -1), errc::invalid_shape, "part -1 of 2"));
  CHECK(says(refused(sp::packed{0, 10}, 0), errc::bad_documents, "2 documents", "batch of 1"));
  CHECK(says(refused(sp::packed{0, 4, 10}, 0), errc::bad_documents, "document 0", "3 tokens", "4"));
  CHECK(says(refused(docs.with_ids(std::vector<index_t>{0, 5}), 0), errc::bad_documents, "document 1", "id 1", " 5"));
  auto const uneven = refused(docs, 1, sp::shapes::equal);
  CHECK(says(uneven, errc::uneven_partition, "own 3 and 7"));
  CHECK(uneven.rank == 1);
}

TEST_CASE("layout: per document a rank's rows are its shards of each document, one behind the other") {
  documents docs = sp::packed{0, 0, 7, 8, 8, 21};
  for (int parts = 1; parts <= 8; ++parts)
    for (int p = 0; p < parts; ++p) {
      std::vector<index_t> want;
      for (auto const& d : docs)
        for (index_t x : positions(sp::zigzag{}.runs(d.count, p, parts))) want.push_back(d.begin + x);
      CHECK(positions(layout(docs, sp::zigzag{}, parts).runs(p)) == want);
    }
}

TEST_CASE("layout: over the stream gaps are skipped, as if documents stood one behind the other") {
  documents docs({{2, 5, 6, 7}, {9, 0, 0, 8}, {10, 8, 11, 9}}, 25); // 17 positions of room: 2..7 and 10..20
  layout l(docs, sp::contiguous{}, 3);
  CHECK(positions(l.runs(0)) == std::vector<index_t>{2, 3, 4, 5, 6});
  CHECK(positions(l.runs(1)) == std::vector<index_t>{7, 10, 11, 12, 13, 14});
  CHECK(positions(l.runs(2)) == std::vector<index_t>{15, 16, 17, 18, 19, 20});
  CHECK(l.runs(1).size() == 2);
}

TEST_CASE("layout: groups own their members' tokens in stream order, whatever the stride") {
  index_t groups = 0;
  for (documents const& d : streams())
    for (int parts : {2, 4, 6, 8})
      for (int size = 1; size <= parts; ++size)
        for (int stride = 1; size * stride <= parts; ++stride) {
          if (parts % (size * stride)) continue;
          for_each_sharding(parts, [&](auto const& how) {
            layout fine(d, how, parts), coarse = fine.grouped(size, stride);
            CHECK(coarse.parts() == parts / size);
            CHECK(consistent(coarse));
            for (int g = 0; g < coarse.parts(); ++g) {
              ++groups;
              std::vector<index_t> members;
              for (int i = 0; i < size; ++i) {
                int member = layout::first_member(g, size, stride) + i * stride;
                CHECK(layout::group_of(member, size, stride) == g);
                for (index_t x : positions(fine.runs(member))) members.push_back(x);
              }
              auto own = positions(coarse.runs(g));
              std::sort(members.begin(), members.end());
              auto sorted = own;
              std::sort(sorted.begin(), sorted.end());
              CHECK(sorted == members);
            }
          });
        }
  CHECK(groups > 1000);

  // all ranks together hold the stream itself, which a kernel without lse is given in stream order
  for (auto const& how : {sp::zigzag{}, sp::zigzag{scope::stream}}) {
    layout all = layout(sp::packed{0, 16, 37}, how, 4).grouped(4, 1);
    REQUIRE(all.runs(0).size() == 1);
    CHECK(all.runs(0)[0] == run{0, 37, 1});
  }
  layout striped = layout(sp::packed{0, 16, 37}, sp::striped{}, 4).grouped(4, 1);
  REQUIRE(striped.runs(0).size() == 1);
  CHECK(striped.runs(0)[0] == run{0, 37, 1});
}

TEST_CASE("USP: zigzag over 2 x ring chunks first, then `ulysses` contiguous pieces of each shard (docs/semantics.md)") {
  int const ring = 2, ulysses = 2;
  layout l(sp::packed{0, 16}, sp::nested{sp::zigzag{}, ulysses}, ring * ulysses);
  CHECK(positions(l.runs(0)) == std::vector<index_t>{0, 1, 2, 3});
  CHECK(positions(l.runs(1)) == std::vector<index_t>{12, 13, 14, 15});
  CHECK(positions(l.runs(2)) == std::vector<index_t>{4, 5, 6, 7});
  CHECK(positions(l.runs(3)) == std::vector<index_t>{8, 9, 10, 11});
  layout rings = l.grouped(ulysses, 1), zigzag(sp::packed{0, 16}, sp::zigzag{}, ring);
  for (int r = 0; r < ring; ++r) CHECK(positions(rings.runs(r)) == positions(zigzag.runs(r)));

  // ring ranks as neighbours: the members of a ulysses group stand `ring` apart
  layout other(sp::packed{0, 16}, sp::nested{sp::zigzag{}, ulysses, ring}, ring * ulysses);
  CHECK(positions(other.runs(0)) == std::vector<index_t>{0, 1, 2, 3});
  CHECK(positions(other.runs(2)) == std::vector<index_t>{12, 13, 14, 15});
  for (int r = 0; r < ring; ++r) CHECK(positions(other.grouped(ulysses, ring).runs(r)) == positions(zigzag.runs(r)));
}

TEST_CASE("batch: padded shapes give every rank the same rows, S < P included") {
  for (documents const& d : {documents(sp::packed{0, 3, 3, 10, 11}), documents(sp::packed{0, 1}),
                             documents(sp::packed{0, 16, 32}), documents(sp::packed{0, 0})})
    for (int parts = 1; parts <= 8; ++parts)
      for_each_sharding(parts, [&](auto const& how) {
        index_t rows = -1, real = 0;
        for (int p = 0; p < parts; ++p) {
          sp::batch b(d, how, p, parts, {sp::shapes::padded});
          if (rows < 0) rows = b.tokens();
          CHECK(b.tokens() == rows);
          CHECK(consistent(b.layout()));
          CHECK(b.source() == d);
          CHECK(b.docs().tokens() == d.tokens());
          for (std::size_t i = 0; i < d.size(); ++i) {
            CHECK(b.docs()[i].count == d[i].count);
            CHECK(b.docs()[i].id == d[i].id);
            real += sp::real_tokens(b, i, p);
          }
        }
        CHECK(real == d.tokens());
        CHECK(rows * parts < d.tokens() + index_t(d.size()) * 2 * parts + 1); // never more than one multiple per document
      });
}

TEST_CASE(
    "batch: padded over the stream keeps the caller's names, counts and order of documents, and pads its end alone [asan]") {
  // names are no indices, documents have gaps and room of their own, which a padded stream does not take over
  documents const d({{2, 3, 4, 900}, {7, 0, 0, 5}, {9, 6, 8, -3}, {20, 1, 1, 11}}, 25);
  for (int parts = 1; parts <= 8; ++parts)
    for (auto const& how : {sp::zigzag{scope::stream}, sp::zigzag{scope::document}}) {
      sp::batch b(d, how, 0, parts, {sp::shapes::padded});
      index_t at = 0;
      REQUIRE(b.docs().size() == d.size());
      for (std::size_t i = 0; i < d.size(); ++i) {
        CHECK(b.docs()[i].id == d[i].id);
        CHECK(b.docs()[i].count == d[i].count);
        CHECK(b.docs()[i].begin == at);
        bool const last = i + 1 == d.size();
        if (how.over == scope::stream && !last) CHECK(b.docs()[i].room == d[i].count);
        at += b.docs()[i].room;
      }
      CHECK(at == b.docs().length());
      CHECK(at % parts == 0);
      if (how.over == scope::stream) CHECK(at < d.tokens() + 2 * parts);
    }
}

TEST_CASE("nested: a stream cut in contiguous pieces is cut as a stream when nested, too, across two documents and more") {
  index_t crossing = 0;
  for (documents const& d : {documents(sp::packed{0, 7, 20}), documents(sp::packed{0, 9, 9, 11, 30})})
    for (auto over : {scope::stream, scope::document})
      for (auto [ring, inner, stride] : {std::array{1, 2, 1}, {2, 2, 1}, {2, 2, 2}, {3, 2, 1}, {2, 3, 2}, {2, 4, 1}}) {
        sp::contiguous const outer{over};
        layout const fine(d, sp::nested{outer, inner, stride}, ring * inner), coarse(d, outer, ring);
        CHECK(consistent(fine));
        for (int g = 0; g < ring; ++g) {
          CHECK(positions(fine.grouped(inner, stride).runs(g)) == positions(coarse.runs(g)));
          for (int i = 0; i < inner && over == scope::stream; ++i) { // the i-th of `inner` equal pieces of the group's rows
            auto const whole = positions(coarse.runs(g));
            auto const n = index_t(whole.size());
            int const member = layout::first_member(g, inner, stride) + i * stride;
            CHECK(positions(fine.runs(member)) ==
                  std::vector<index_t>(whole.begin() + i * n / inner, whole.begin() + (i + 1) * n / inner));
            crossing += fine.runs(member).size() > 0 && fine.runs(member)[0].begin < d[0].end() &&
                        positions(fine.runs(member)).back() >= d[0].end();
          }
        }
      }
  CHECK(crossing >= 10); // pieces that hold tokens of two documents
}

TEST_CASE("batch: valid tokens of a padded document on each rank (docs/semantics.md)") {
  auto clamp = [](index_t x, index_t p) { return std::max<index_t>(0, std::min(x, p)); };
  for (int ranks = 1; ranks <= 8; ++ranks)
    for (index_t len = 0; len <= 40; ++len) {
      sp::documents docs = sp::packed{0, 5, 5 + len};
      index_t p = (len + 2 * ranks - 1) / (2 * ranks); // chunk after padding
      for (int r = 0; r < ranks; ++r) {
        sp::batch b(docs, sp::zigzag{}, r, ranks, {sp::shapes::padded});
        CHECK(sp::real_tokens(b, 1, r) == clamp(len - r * p, p) + clamp(len - (2 * ranks - 1 - r) * p, p));
      }
    }
}

TEST_CASE("batch: equal shapes are given or refused, naming the alternative") {
  for (int parts = 1; parts <= 8; ++parts)
    for (index_t n = 0; n <= 40; ++n) {
      sp::layout ragged(sp::packed{0, n}, sp::zigzag{}, parts);
      bool even = true;
      for (int p = 0; p < parts; ++p) even = even && ragged.tokens(p) == ragged.tokens(0);
      if (even) {
        CHECK(sp::batch(sp::packed{0, n}, sp::zigzag{}, 0, parts, {sp::shapes::equal}).tokens() == n / parts);
        continue;
      }
      for (int p = 0; p < parts; ++p) { // every rank refuses, before any communication
        auto e = failure_of([&] { return sp::batch(sp::packed{0, n}, sp::zigzag{}, p, parts, {sp::shapes::equal}); });
        CHECK(e.code == errc::uneven_partition);
        CHECK(e.rank == p);
        CHECK(e.size == parts);
        CHECK(e.problem.find(" own " + std::to_string(ragged.tokens(0)) + " and ") != std::string::npos);
        CHECK(e.remedy.find("shapes::padded") != std::string::npos);
        CHECK(e.remedy.find("shapes::ragged") != std::string::npos);
      }
    }
}

TEST_CASE("batch: a sharding that cannot say how to pad, and parts that do not exist") {
  struct pairs {
    scope over = scope::document;
    std::vector<run> runs(index_t n, index_t part, index_t parts) const {
      return {{sp::cut(n, part, parts), sp::cut(n, part + 1, parts) - sp::cut(n, part, parts), 1}};
    }
  };
  static_assert(sp::sharding<pairs>);
  CHECK(sp::batch(sp::packed{0, 7}, pairs{}, 1, 2).tokens() == 4);
  CHECK(says(failure_of([] {
               return sp::batch(sp::packed{0, 7}, pairs{}, 1, 2, {sp::shapes::padded});
             }),
             errc::uneven_partition, "pad"));
  CHECK(says(failure_of([] { return sp::batch(sp::packed{0, 7}, sp::zigzag{}, 2, 2); }), errc::invalid_shape, "part 2 of 2"));
  CHECK(says(failure_of([] { return sp::batch(sp::packed{0, 7}, sp::zigzag{}, -1, 2); }), errc::invalid_shape, "part -1 of 2"));
  auto e = failure_of([] { return sp::batch(sp::packed{0, 7}, sp::nested{sp::zigzag{}, 4}, 3, 6); });
  CHECK(says(e, errc::uneven_partition, "6 ranks"));
  CHECK(e.primitive == "batch");
  CHECK(e.rank == 3);
}

TEST_CASE("batch: movable, with memory and cached preparations of its own") {
  sp::batch a(sp::packed{0, 7}, sp::zigzag{}, 0, 2);
  struct kept {
    int value;
  };
  int made = 0;
  auto find = [&](sp::batch const& b, int v) {
    return b.cached<kept>([&](kept const& k) { return k.value == v; }, [&] { return ++made, kept{v}; });
  };
  auto const one = find(a, 1), two = find(a, 2);
  CHECK(&*find(a, 1) == &*one);
  CHECK(made == 2);
  void* block = a.memory().allocate(100);
  auto const serial = a.serial();
  sp::batch b = std::move(a);
  CHECK(b.serial() == serial); // it is the same batch
  CHECK(&*find(b, 2) == &*two);
  b.memory().deallocate(block, 100);
  CHECK(b.memory().bytes_in_use() == 0);
  CHECK(b.tokens() == 3);
  b = sp::batch(sp::packed{0, 7}, sp::zigzag{}, 0, 2);
  CHECK(b.serial() > serial); // equal documents are another batch
  CHECK(one->value == 1);     // what was found stays
}

TEST_CASE("batch: keeps the last preparations only, and whoever holds one of them keeps it [asan]") {
  int alive = 0;
  struct kept {
    int value;
    int* alive;
    kept(int v, int& a) : value(v), alive(&a) { ++a; }
    kept(kept&& o) noexcept : value(o.value), alive(o.alive) { ++*alive; }
    ~kept() { --*alive; }
  };
  {
    sp::batch b(sp::packed{0, 7}, sp::zigzag{}, 0, 2);
    auto make = [&](int v) {
      return b.cached<kept>([&](kept const& k) { return k.value == v; }, [&] { return kept(v, alive); });
    };
    int const most = int(sp::batch::most_cached);
    auto const first = make(0);
    for (int v = 1; v <= most; ++v) static_cast<void>(make(v));
    CHECK(alive == most + 1); // the first one is held here alone
    CHECK(first->value == 0);
    CHECK(&*make(0) != &*first); // the batch has forgotten it
    CHECK(make(most)->value == most);
  }
  CHECK(alive == 0);
}

/// Promises equal rows for every length, and keeps the promise for none.
struct boaster {
  scope over = scope::document;
  index_t multiple(index_t) const { return 1; }
  std::vector<run> runs(index_t n, index_t part, index_t) const { return {{part ? n : 0, part ? 0 : n, 1}}; }
};

TEST_CASE("batch: padded means equal rows, or uneven_partition") {
  CHECK(says(failure_of([] {
               return sp::batch(sp::packed{0, 10}, boaster{}, 0, 2, {sp::shapes::padded}).tokens();
             }),
             errc::uneven_partition, "ranks 0 and 1 own 10 and 0"));
  CHECK(sp::batch(sp::packed{0, 10}, boaster{}, 0, 2).tokens() == 10);
}

TEST_CASE("batch: a padded batch over groups that do not divide the ranks says so") {
  auto padded = [](index_t inner, index_t stride, int parts) {
    return failure_of([&] {
      sp::nested<sp::zigzag> how{sp::zigzag{}, inner, stride};
      return sp::batch(sp::packed{0, 10}, how, 0, parts, {sp::shapes::padded}).tokens();
    });
  };
  CHECK(says(padded(0, 1, 4), errc::uneven_partition, "4 ranks", "groups of 0"));
  CHECK(says(padded(8, 1, 4), errc::uneven_partition, "4 ranks", "groups of 8"));
  CHECK(says(padded(2, 4, 4), errc::uneven_partition, "4 ranks", "groups of 2 at distance 4"));
  CHECK(says(padded(-2, 1, 4), errc::uneven_partition, "groups of -2"));
  CHECK(padded(index_t{1} << 40, index_t{1} << 40, 4).code == errc::size_overflow);
}

} // namespace
} // namespace test_layout
