// Digests of documents, layouts and masks: every number in them counts, and what means the same has the same digest.
// Check level 2 compares nothing else of them, so a number left out here is a difference between ranks that nobody finds.
#include <doctest/doctest.h>

#include <set>

#include <sp/batch.hpp>
#include <sp/layout/digests.hpp>

namespace test_digests {
namespace {

using sp::detail::digest_of;

/// All digests differ from each other and from 0, which means "not given".
template <class T>
bool all_differ(std::vector<T> const& list) {
  std::set<std::uint64_t> seen{0};
  for (T const& x : list) seen.insert(digest_of(x));
  return seen.size() == list.size() + 1;
}

} // namespace

TEST_CASE("digests: every number of a document counts, and the length of the stream") {
  CHECK(all_differ(std::vector<sp::documents>{{{{2, 5, 6, 3}}, 10},
                                              {{{1, 5, 6, 3}}, 10},
                                              {{{2, 4, 6, 3}}, 10},
                                              {{{2, 5, 7, 3}}, 10},
                                              {{{2, 5, 6, 4}}, 10},
                                              {{{2, 5, 6, 3}}, 11},
                                              {{{2, 5, 6, 3}, {8, 0, 0, 3}}, 10},
                                              {{}, 10}}));
  CHECK(digest_of(sp::documents(sp::packed{0, 4, 9})) == digest_of(sp::documents({{0, 4, 4, 0}, {4, 5, 5, 1}}, 9)));
}

TEST_CASE("digests: layouts with the same number of rows and runs everywhere differ by who owns what") {
  sp::documents const two = sp::packed{0, 8, 16}, one = sp::packed{0, 16};
  auto by_document = sp::layout(two, sp::contiguous{sp::scope::document}, 2), // [0, 4) [8, 12) and [4, 8) [12, 16)
      zigzag = sp::layout(one, sp::zigzag{}, 2),                              // [0, 4) [12, 16) and [4, 12)
      nested = sp::layout(one, sp::nested{sp::zigzag{}, 2}, 4), flat = sp::layout(one, sp::contiguous{}, 4),
       stripes = sp::layout(one, sp::striped{}, 4);
  CHECK(all_differ(std::vector<sp::layout>{by_document, zigzag, sp::layout(two, sp::zigzag{}, 2), nested, flat, stripes}));
  /// One token changes its owner, or the order of the owners is another.
  struct custom {
    std::vector<std::vector<sp::run>> list;
    sp::scope over = sp::scope::stream;
    std::vector<sp::run> runs(sp::index_t, sp::index_t part, sp::index_t) const { return list[std::size_t(part)]; }
  };
  CHECK(all_differ(std::vector<sp::layout>{{one, custom{{{{0, 8, 1}}, {{8, 8, 1}}}}, 2},
                                           {one, custom{{{{8, 8, 1}}, {{0, 8, 1}}}}, 2},
                                           {one, custom{{{{0, 9, 1}}, {{9, 7, 1}}}}, 2},
                                           {one, custom{{{{0, 8, 2}}, {{1, 8, 2}}}}, 2}}));
  CHECK(digest_of(flat) == digest_of(sp::layout(one, custom{{{{0, 4, 1}}, {{4, 4, 1}}, {{8, 4, 1}}, {{12, 4, 1}}}}, 4)));
}

TEST_CASE("digests: every part of a mask's rule counts, bounds beyond the unbounded are one") {
  sp::slice const s{1, 4, 2, 6, -1, 3};
  auto changed = [&](auto change) {
    sp::slice x = s;
    change(x);
    return sp::user_slices({x});
  };
  CHECK(all_differ(std::vector<sp::mask>{sp::full(),
                                         sp::causal(),
                                         sp::window(3),
                                         sp::window(4),
                                         sp::window(3, 1),
                                         {.hi = 0, .at = sp::align::end},
                                         sp::prefix_lm({1, 2}),
                                         sp::prefix_lm({2, 1}),
                                         sp::prefix_lm({1, 2, 0}),
                                         {.hi = 0, .spans = {{1, 4, 1, 4}}},
                                         {.hi = 0, .user = {{1, 4, 1, 4}}},
                                         {.hi = 0, .user = {{1, 4, 1, 4}}, .only_user = true},
                                         sp::user_slices({s}),
                                         changed([](auto& x) { x.q0 = 0; }),
                                         changed([](auto& x) { x.q1 = 5; }),
                                         changed([](auto& x) { x.k0 = 1; }),
                                         changed([](auto& x) { x.k1 = 7; }),
                                         changed([](auto& x) { x.lo = 0; }),
                                         changed([](auto& x) { x.hi = 2; }),
                                         sp::user_slices({s, {4, 5, 6, 7}})}));
  CHECK(digest_of(sp::mask{.lo = -sp::unbounded - 1}) == digest_of(sp::mask{.lo = std::numeric_limits<sp::index_t>::min()}));
}

} // namespace test_digests
