// Head shares for every small model and degree: the cut rule, kv copies, nested cuts and the split into ordinary GQA calls.
#include <doctest/doctest.h>

#include <vector>

#include <sp/geometry/heads.hpp>

#include "support/failure.hpp"

namespace test_heads {
namespace {

using sp::index_t;
using support::failure_of;
using support::says;

constexpr index_t copies(index_t hq, index_t hk, index_t parts) {
  index_t n = 0;
  for (index_t p = 0; p < parts; ++p) n += sp::heads_of(hq, hk, p, parts).kv_count;
  return n;
}

static_assert(copies(12, 4, 6) == 8 && copies(6, 3, 2) == 4 && copies(8, 2, 8) == 8 && copies(8, 4, 4) == 4);
static_assert(sp::all_heads(8, 2) == sp::heads{0, 8, 0, 2, 4});
static_assert(sp::heads_of(7, 7, 0, 4).q_count == 1 && sp::heads_of(7, 7, 3, 4).q_count == 2);

// q heads 2, 3, 4 on kv heads 1, 1, 2
constexpr sp::heads ragged{2, 3, 1, 2, 2};
static_assert(sp::uniform_gqa(ragged).size() == 2);
static_assert(sp::uniform_gqa(ragged)[0] == sp::gqa_range{0, 2, 0, 1} && sp::uniform_gqa(ragged)[1] == sp::gqa_range{2, 1, 1, 1});

/// Calls `f(hq, hk, parts)` for every model of at most 16 q heads and 1..8 parts.
template <class F>
void for_all_models(F f) {
  for (index_t hq = 1; hq <= 16; ++hq)
    for (index_t hk = 1; hk <= hq; ++hk)
      for (index_t parts = 1; parts <= 8 && hq % hk == 0; ++parts) f(hq, hk, parts);
}

/// The kv heads of a share found one q head at a time, from the definition.
bool kv_heads_right(sp::heads const& h, index_t group) {
  if (h.q_count == 0) return h.kv_count == 0;
  bool ok = h.q_per_kv == group && h.kv_begin == h.q_begin / group && h.kv_end() == (h.q_end() - 1) / group + 1;
  for (index_t i = 0; i < h.q_count; ++i) {
    index_t local = h.kv_of(i);
    ok = ok && 0 <= local && local < h.kv_count && h.kv_begin + local == h.q_head(i) / group;
  }
  return ok;
}

/// The calls cover each local q head once and give it the kv head it uses; neighbours could not be one call.
bool groups_right(sp::heads const& h) {
  auto groups = sp::uniform_gqa(h);
  index_t q = 0, kv = 0;
  bool ok = groups.size() <= 3;
  for (sp::gqa_range const& g : groups) {
    ok = ok && g.q_begin == q && g.kv_begin == kv && g.q_count > 0 && g.kv_count > 0 && g.q_count % g.kv_count == 0;
    for (index_t i = 0; i < g.q_count; ++i) ok = ok && g.kv_begin + i / g.q_per_kv() == h.kv_of(g.q_begin + i);
    q += g.q_count;
    kv += g.kv_count;
  }
  for (std::size_t i = 1; i < groups.size(); ++i) ok = ok && groups[i - 1].q_per_kv() != groups[i].q_per_kv();
  return ok && q == h.q_count && kv == h.kv_count;
}

TEST_CASE("heads: every share of every small model") {
  for_all_models([](index_t hq, index_t hk, index_t parts) {
    CAPTURE(hq);
    CAPTURE(hk);
    CAPTURE(parts);
    index_t next = 0;
    bool ok = true;
    for (index_t p = 0; p < parts; ++p) {
      auto h = sp::heads_of(hq, hk, p, parts);
      ok = ok && h.q_begin == next && h.q_begin == p * hq / parts;
      ok = ok && kv_heads_right(h, hq / hk) && groups_right(h);
      next = h.q_end();
    }
    CHECK(ok);
    CHECK(next == hq);
  });
}

TEST_CASE("heads: cuts nest: a part of a part is again a share in global numbers") {
  for_all_models([](index_t hq, index_t hk, index_t parts) {
    bool ok = true;
    index_t next = 0;
    for (index_t p = 0; p < parts; ++p)
      for (index_t inner = 0; inner < 3; ++inner) {
        auto h = sp::heads_of(sp::heads_of(hq, hk, p, parts), inner, 3);
        ok = ok && h.q_begin == next && kv_heads_right(h, hq / hk) && groups_right(h);
        next = h.q_end();
      }
    CHECK((ok && next == hq));
  });
}

TEST_CASE("heads: copies of kv heads over all ranks") {
  CHECK(copies(12, 4, 6) == 8);
  CHECK(copies(6, 3, 2) == 4);
  CHECK(copies(8, 1, 8) == 8); // MQA: everybody has the one kv head
  CHECK(copies(3, 3, 8) == 3); // more ranks than heads: five ranks have none
}

TEST_CASE("heads: ragged shares need at most three calls") {
  auto three = sp::uniform_gqa({1, 7, 0, 3, 3}); // q 1..7 of groups of 3: 2, 3 and 2 of them
  REQUIRE(three.size() == 3);
  CHECK(three[0] == sp::gqa_range{0, 2, 0, 1});
  CHECK(three[1] == sp::gqa_range{2, 3, 1, 1});
  CHECK(three[2] == sp::gqa_range{5, 2, 2, 1});

  auto even_edges = sp::uniform_gqa({2, 2, 0, 2, 3}); // q 2, 3: one of each group, an ordinary MHA call
  REQUIRE(even_edges.size() == 1);
  CHECK(even_edges[0] == sp::gqa_range{0, 2, 0, 2});

  CHECK(sp::uniform_gqa(sp::all_heads(32, 8)).size() == 1);
  CHECK(sp::uniform_gqa({4, 0, 2, 0, 2}).size() == 0);
}

TEST_CASE("heads: wrong numbers are refused, with the numbers") {
  CHECK(says(failure_of([] { return sp::all_heads(7, 2); }), sp::errc::invalid_shape, "7 q heads", "2 kv heads"));
  CHECK(says(failure_of([] { return sp::all_heads(0, 1); }), sp::errc::invalid_shape, "0 q heads"));
  CHECK(says(failure_of([] { return sp::all_heads(4, -2); }), sp::errc::invalid_shape, "-2 kv heads"));
  CHECK(says(failure_of([] { return sp::heads_of(4, 2, 3, 3); }), sp::errc::invalid_shape, "part 3 of 3"));
  CHECK(says(failure_of([] { return sp::heads_of(4, 2, 0, 0); }), sp::errc::invalid_shape, "part 0 of 0"));
}

} // namespace
} // namespace test_heads
