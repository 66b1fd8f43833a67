// Degrees from head counts: the safe default, what uneven heads add, what a missing lse takes away, and the sentences.
// Hybrid models: all head shapes at once. Every proposal is legal, and every refusal names its numbers.
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

// ---- linear attention beside softmax attention ------------------------------------------------------------------------------------

/// By counting heads of ranks: nobody without a value head, and unless heads may be uneven as many for everybody and no key head twice.
bool cuts(sp::index_t value_heads, sp::index_t key_heads, int ranks, bool uneven) {
  sp::index_t copies = 0;
  bool alike = true, everybody = true;
  for (int p = 0; p < ranks; ++p) {
    auto const mine = sp::heads_of(value_heads, key_heads, p, ranks);
    copies += mine.kv_count;
    everybody = everybody && mine.q_count > 0;
    alike = alike && mine.q_count * ranks == value_heads;
  }
  return everybody && (uneven || (alike && copies == key_heads));
}

TEST_CASE("derive: one mesh for softmax and linear layers: what is legal is what counting the heads of ranks says") {
  int checked = 0, narrowed = 0;
  bool ok = true;
  for (sp::index_t hk : {1, 2, 3, 4})
    for (sp::index_t key : {1, 2, 4, 6})
      for (sp::index_t times : {1, 2, 3})
        for (int world : {1, 2, 3, 4, 6, 8, 12})
          for (int what = 0; what < 8; ++what) {
            sp::abilities const can{.lse = !(what & 1), .uneven_heads = (what & 2) != 0, .states = !(what & 4)};
            shapes const softmax{{2 * hk, hk}}, hybrid{{2 * hk, hk}, sp::linear_heads(key, times * key)};
            bool const linear = can.states || cuts(times * key, key, world, can.uneven_heads);
            std::vector<int> expected;
            for (int u = 1; u <= world; ++u)
              if (world % u == 0 && linear && (can.lse || u == world) && cuts(2 * hk, hk, u, can.uneven_heads))
                expected.push_back(u);
            ok = ok && sp::legal_degrees(hybrid, world, can) == expected;
            if (world == 1) continue;
            if (expected.empty()) {
              ok = ok && failure_of([&] { return sp::derive(hybrid, world, can); }).code == sp::errc::head_partition;
            } else { // linear layers ask nothing of the degrees: one mesh, the one that suits softmax attention
              auto const d = sp::derive(hybrid, world, can), alone = sp::derive(softmax, world, can);
              ok = ok && d.ulysses == alone.ulysses && d.ring == alone.ring && one_sentence(d.reason);
              ok = ok && d.reason.starts_with(alone.reason.substr(0, alone.reason.size() - 1));
              bool const by_heads = cuts(times * key, key, world, can.uneven_heads);
              ok = ok && (d.reason.find("by heads") != std::string::npos) == by_heads;
              ok = ok && (d.reason.find("by state") != std::string::npos) == can.states;
            }
            ++checked, narrowed += expected.size() < sp::legal_degrees(softmax, world, can).size();
          }
  CHECK(ok);
  CHECK(checked == 4 * 4 * 3 * 6 * 8);
  CHECK(narrowed > 100);
}

TEST_CASE("derive: the reason says by what linear attention runs") {
  shapes const qwen3_next{{16, 2}, sp::linear_heads(16, 32)};
  auto const d = sp::derive(qwen3_next, 8);
  CHECK(d.ulysses == 2);
  CHECK(d.ring == 4);
  CHECK(d.reason ==
        "2 is the greatest common divisor of 2 kv heads and 8 ranks, so Ulysses takes 2 and the ring the remaining factor "
        "4; linear attention of 16 key and 32 value heads goes over all 8 ranks, by heads or by state.");
  CHECK(sp::derive(qwen3_next, 8, {.states = false}).reason.ends_with("goes over all 8 ranks by heads."));
  CHECK(sp::derive(qwen3_next, 64)
            .reason.ends_with("goes over all 64 ranks by state, because its key heads do not divide evenly."));
  CHECK(sp::derive(qwen3_next, 64, {.uneven_heads = true})
            .reason.ends_with("goes over all 64 ranks by state, because some would have no value head."));
  CHECK(sp::derive(qwen3_next, 32, {.uneven_heads = true, .states = false}).reason.ends_with("goes over all 32 ranks by heads."));
  auto const pure = sp::derive(shapes{sp::linear_heads(4, 8)}, 4);
  CHECK(pure.ulysses == 4);
  CHECK(pure.reason.starts_with("There is no softmax attention"));

  auto refused = failure_of([&] { return sp::derive(qwen3_next, 32, {.states = false}); });
  CHECK(says(refused, sp::errc::head_partition, "32 ranks", "16 key and 32 value heads"));
  CHECK(refused.remedy.find("uneven_heads") != std::string::npos);
  CHECK(refused.remedy.find("16 ranks") != std::string::npos);
  refused = failure_of([&] { return sp::derive(qwen3_next, 64, {.uneven_heads = true, .states = false}); });
  CHECK(says(refused, sp::errc::head_partition, "none of 32 value heads"));
  CHECK(refused.remedy.find("uneven_heads") == std::string::npos);
  CHECK(says(failure_of([] { return sp::derive(shapes{sp::linear_heads(3, 8)}, 4); }), sp::errc::invalid_shape,
             "3 key and 8 value"));
}

} // namespace
} // namespace test_derive
