// Degrees from head counts: the safe default, what uneven heads add, what a missing lse takes away, and the sentences.
// Every proposal is legal, and every refusal names its numbers.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <sp/geometry/heads.hpp>
#include <sp/mesh/derive.hpp>

#include "support/failure.hpp"

namespace test_derive {
namespace {

using support::failure_of;
using support::says;
using shapes = std::vector<sp::head_shape>;

struct row {
  shapes model;
  int world;
  int ulysses, ring;
};

bool one_sentence(std::string const& s) { return s.size() > 20 && s.back() == '.' && s.find(". ") == std::string::npos; }

TEST_CASE("derive: ulysses is the greatest common divisor of all kv heads and the ranks") {
  row const table[] = {
      {{{32, 8}}, 1, 1, 1},           {{{32, 8}}, 2, 2, 1},
      {{{32, 8}}, 8, 8, 1},           {{{32, 8}}, 16, 8, 2},
      {{{32, 8}}, 12, 4, 3},          {{{32, 8}}, 3, 1, 3},
      {{{28, 4}}, 8, 4, 2},           {{{8, 1}}, 4, 1, 4},
      {{{12, 12}}, 8, 4, 2},          {{{7, 7}}, 7, 7, 1},
      {{{16, 2}, {32, 32}}, 8, 2, 4}, {{{16, 16}, {32, 16}}, 16, 16, 1},
      {{{16, 4}, {18, 6}}, 4, 2, 2},  {{{9, 9}, {8, 8}}, 6, 1, 6},
      {{{64, 8}}, 1024, 8, 128},
  };
  for (row const& r : table) {
    auto d = sp::derive(r.model, r.world);
    CHECK(d.ulysses == r.ulysses);
    CHECK(d.ring == r.ring);
    CHECK(one_sentence(d.reason));
  }
}

TEST_CASE("derive: every proposal is legal and even for all small models") {
  bool ok = true;
  for (sp::index_t hq = 1; hq <= 12; ++hq)
    for (sp::index_t hk = 1; hk <= hq; ++hk)
      for (int world = 1; world <= 12 && hq % hk == 0; ++world) {
        shapes model{{hq, hk}};
        auto d = sp::derive(model, world);
        ok = ok && d.ulysses * d.ring == world;
        for (int p = 0; p < d.ulysses; ++p) {
          auto h = sp::heads_of(hq, hk, p, d.ulysses);
          ok = ok && h.q_count == hq / d.ulysses && h.kv_count == hk / d.ulysses;
        }
        for (int more = d.ulysses + 1; more <= world; ++more) // nothing larger is even
          ok = ok && (world % more != 0 || hk % more != 0);
        auto legal = sp::legal_degrees(model, world);
        ok = ok && !legal.empty() && legal.front() == 1 && legal.back() == d.ulysses;
        for (int u : sp::legal_degrees(model, world, {.uneven_heads = true}))
          for (int p = 0; p < u; ++p) ok = ok && sp::heads_of(hq, hk, p, u).q_count > 0;
      }
  CHECK(ok);
}

TEST_CASE("derive: uneven heads make more degrees legal and leave the default alone") {
  shapes const model{{6, 3}};
  CHECK(sp::legal_degrees(model, 4) == std::vector<int>{1});
  CHECK(sp::legal_degrees(model, 4, {.uneven_heads = true}) == std::vector<int>{1, 2, 4});
  CHECK(sp::legal_degrees(model, 8, {.uneven_heads = true}) == std::vector<int>{1, 2, 4}); // 8 ranks, 6 q heads: two without any
  CHECK(sp::legal_degrees(model, 4, {.lse = false, .uneven_heads = true}) == std::vector<int>{4});
  CHECK(sp::legal_degrees(model, 4, {.lse = false}).empty());
  CHECK(sp::legal_degrees(model, 3, {.lse = false}) == std::vector<int>{3});

  auto d = sp::derive(model, 4, {.uneven_heads = true});
  CHECK(d.ulysses == 1);
  CHECK(d.ring == 4);
  CHECK(d.reason.find("uneven heads") != std::string::npos);
  CHECK(one_sentence(d.reason));
}

TEST_CASE("derive: without lse there is no ring") {
  auto even = sp::derive(shapes{{32, 8}}, 4, {.lse = false});
  CHECK(even.ulysses == 4);
  CHECK(even.ring == 1);

  auto uneven = sp::derive(shapes{{7, 7}, {12, 4}}, 4, {.lse = false, .uneven_heads = true});
  CHECK(uneven.ulysses == 4);
  CHECK(uneven.ring == 1);
  CHECK(uneven.reason.find("7 and 4 kv heads") != std::string::npos);
  CHECK(uneven.reason.find("no lse") != std::string::npos);

  auto refused = failure_of([] { return sp::derive(shapes{{8, 2}}, 4, {.lse = false}); });
  CHECK(says(refused, sp::errc::head_partition, "4 ranks", "2 kv heads"));
  CHECK(refused.remedy.find("uneven_heads") != std::string::npos);
  CHECK(refused.remedy.find("2 ranks") != std::string::npos);

  auto too_many = failure_of([] { return sp::derive(shapes{{6, 3}}, 8, {.lse = false, .uneven_heads = true}); });
  CHECK(says(too_many, sp::errc::head_partition, "8 ranks", "3 kv heads", "6 q heads"));
  CHECK(too_many.remedy.find("uneven_heads") == std::string::npos);

  CHECK(sp::derive(shapes{{6, 3}}, 1, {.lse = false}).ulysses == 1);
}

TEST_CASE("derive: bad input") {
  CHECK(says(failure_of([] { return sp::derive(shapes{}, 4); }), sp::errc::invalid_shape, "no head shapes"));
  CHECK(says(failure_of([] { return sp::derive(shapes{{8, 3}}, 4); }), sp::errc::invalid_shape, "8 q heads", "3 kv heads"));
  CHECK(says(failure_of([] { return sp::derive(shapes{{8, 0}}, 4); }), sp::errc::invalid_shape, "0 kv heads"));
  CHECK(says(failure_of([] { return sp::derive(shapes{{8, 2}}, 0); }), sp::errc::invalid_shape, "0 ranks"));
}

} // namespace
} // namespace test_derive
