// The tiled CPU backend in double against the oracle, and bit for bit against itself however rows and keys are spread over parts.
// Every mask, head count, width, feature; documents shorter and longer than a tile, empty ones, slack that holds NaN.
// optimised: long products
#include <doctest/doctest.h>

#include <sp/cpu.hpp>
#include <sp/reference.hpp>

#include "backend/by_parts.hpp"
#include "support/wide.hpp"

namespace test_cpu {
namespace {

using namespace backend_tests;

/// What derives from a kernel that is equal by its features may hold more than these tell.
struct holds_more : sp::cpu<sp::softcap> {
  int more = 0;
};
static_assert(sp::detail::equal_by_value<sp::cpu<sp::softcap>> && !sp::detail::equal_by_value<holds_more>);
static_assert(!sp::detail::equal_by_value<sp::blockwise<sp::scalar_kernel<sp::alibi>, holds_more>>);
static_assert(sp::detail::equal_by_value<sp::blockwise<sp::scalar_kernel<sp::alibi>, sp::cpu<sp::softcap>>>);

/// RELIABILITY's bound in double; the sums of dk over many rows get the same.
template <class Backend>
void check(Backend const& b, setting const& set, bool bits = true) {
  scene<double> s(set);
  auto expected = s.expected();
  double bound = 1e-12 * std::max(1.0, expected.largest_score / 1000);
  auto whole = s.run(b, s.whole());
  auto e = s.against(whole, expected);
  CAPTURE(e);
  CHECK(worst(e) < bound);
  e = s.against(s.run(b, s.cut_by(sp::striped{}, 3, true)), expected);
  CHECK(worst(e) < bound);
  if (!bits) return;
  CHECK(s.run(b, s.cut_by(sp::contiguous{}, 5)) == whole);
  CHECK(s.run(b, s.cut_by(sp::zigzag{}, 3)) == whole);
  CHECK(s.run(b, s.cut_by(sp::striped{}, 4)) == whole);
}

setting medium(sp::mask rule) {
  setting s{.docs = sp::packed{0, 7, 7, 8, 290, 420}, .rule = std::move(rule)};
  s.q_heads = 2;
  s.dim = 5;
  s.value_dim = 3;
  return s;
}

#ifdef SP_TEST_SANITIZED
unsigned const seeds = support::wide() ? 8 : 1;
std::vector<sp::index_t> const numbers_of_kv_heads =
    support::wide() ? std::vector<sp::index_t>{1, 2, 6} : std::vector<sp::index_t>{2};
#else
constexpr unsigned seeds = 60;
constexpr sp::index_t numbers_of_kv_heads[] = {1, 2, 6};
std::vector<float> const slopes{0.5f, 0.25f, 0.125f, 0.0625f, 0.5f, 0.25f};
#endif

} // namespace

TEST_CASE("cpu: masks of several slices [asan]") {
  std::vector<sp::document> images{{12, 30, 30}, {95, 20, 20}, {180, 100, 100}, {300, 2, 2}};
  sp::mask windowed = sp::window(40);
  for (auto const& d : images) windowed.spans.push_back({d.begin, d.end(), d.begin, d.end()});
  for (sp::mask const& m :
       {sp::prefix_lm({3, 0, 1, 100, 130}), sp::image_spans(images), windowed,
        sp::user_slices({{1, 5, 2, 6}, {20, 200, 50, 150, -3, 60}, {20, 200, 155, 280}, {201, 290, 8, 9}, {300, 420, 290, 291}})})
    check(sp::cpu{}, medium(m));
}

/// Disjoint slices whose key ranges jump to and fro as rows go on: bands of a few rows, each with some key ranges and bounds.
sp::mask jumping(sp::document const& d, unsigned seed) {
  std::mt19937 g(seed);
  auto draw = [&](sp::index_t a, sp::index_t b) { return a + static_cast<sp::index_t>(g() % static_cast<unsigned>(b - a + 1)); };
  std::vector<sp::slice> list;
  for (sp::index_t q = d.begin; q < d.end();) {
    sp::index_t const end = std::min(q + draw(1, 9), d.end());
    for (sp::index_t k = d.begin + draw(0, d.count / 2); k < d.end() && draw(0, 3) > 0;) {
      sp::index_t const last = std::min(k + draw(1, d.count / 3), d.end());
      sp::slice s{q, end, k, last};
      if (draw(0, 2) == 0) s.lo = k - end + draw(0, 8); // some rows see the end of the range only, or its begin
      if (draw(0, 2) == 0) s.hi = last - q - draw(0, 8);
      if (s.lo <= s.hi) list.push_back(s);
      k = last + draw(1, 40);
    }
    q = end + (draw(0, 3) == 0 ? 2 : 0);
  }
  return sp::user_slices(list);
}

TEST_CASE("cpu: key ranges that do not move on with the rows [asan]") {
  // by hand: rows that see nothing, or other keys, between rows that see the same ones; and on either side of a tile's edge a range
  // that begins first and ends last
  setting s{.docs = sp::packed{0, 200},
            .rule = sp::user_slices({{0, 8, 0, 40},
                                     {8, 16, 70, 90},
                                     {24, 40, 0, 40},
                                     {40, 60, 100, 140},
                                     {60, 90, 110, 120},
                                     {96, 110, 3, 9},
                                     {150, 160, 130, 135}})};
  s.dim = 3, s.value_dim = 2;
  check(sp::cpu{}, s);
  for (unsigned seed = 1; seed <= 12; ++seed) {
    CAPTURE(seed);
    s.docs = sp::packed{0, 60 + 17 * static_cast<sp::index_t>(seed)};
    s.rule = jumping(s.docs[0], seed);
    s.seed = seed;
    check(sp::cpu{}, s, seed % 4 == 0);
  }
}

TEST_CASE("cpu: heads, shared, grouped and ragged; slack [asan]") {
  setting s = medium(sp::causal());
  s.docs = sp::documents({{2, 5, 6, 3}, {9, 0, 0, 1}, {9, 190, 200, 9}}, 230);
  s.q_heads = 6;
  for (sp::index_t kv : numbers_of_kv_heads) {
    s.kv_heads = kv;
    s.head_parts = 1;
    check(sp::cpu{}, s);
    scene<double> one(s);
    auto whole = one.run(sp::cpu{}, one.whole());
    s.head_parts = 4; // heads 1, 2, 1, 2
    check(sp::cpu{}, s);
    scene<double> cut(s);
    auto shared = cut.run(sp::cpu{}, cut.cut_by(sp::zigzag{}, 2));
    CHECK(shared.out == whole.out);
    CHECK(shared.lse == whole.lse);
    CHECK(shared.dq == whole.dq);
    if (kv == 6) CHECK(shared == whole);
  }
}

TEST_CASE("cpu: random scenes [asan]") {
  for (unsigned seed = 1; seed <= seeds; ++seed) {
    std::mt19937 gen(seed);
    auto upto = [&](unsigned n) { return static_cast<sp::index_t>(gen() % (n + 1)); };
    std::vector<sp::index_t> offsets{0};
    for (sp::index_t d = upto(3); d >= 0; --d) offsets.push_back(offsets.back() + (gen() % 3 ? upto(20) : upto(260)));
    setting s{.docs = sp::documents::packed(offsets, offsets.back() + upto(3))};
    if (gen() % 3 == 0) s.rule = sp::window(upto(150) - 3, upto(150) + 3);
    if (gen() % 3 == 0)
      for (sp::document const& d : s.docs) s.rule.prefix.push_back(upto(static_cast<unsigned>(d.count)));
    s.kv_heads = 1 + upto(2);
    s.q_heads = s.kv_heads * (1 + upto(2));
    s.dim = 1 + upto(9);
    s.value_dim = 1 + upto(9);
    s.head_parts = 1 + upto(3);
    s.loud = gen() % 4 ? 1 : 300;
    s.seed = seed;
    CAPTURE(seed);
    check(sp::cpu{}, s);
  }
}

#ifndef SP_TEST_SANITIZED

TEST_CASE("cpu: one-slice masks") {
  for (sp::mask const& m : {sp::full(), sp::causal(), sp::window(20), sp::window(130, 3), sp::window(-5, 9)})
    check(sp::cpu{}, medium(m));
}

TEST_CASE("cpu: cross attention of unequal lengths") {
  for (auto at : {sp::align::begin, sp::align::end}) {
    setting s = medium(sp::mask{.hi = 0, .at = at});
    s.key_docs = sp::packed{0, 9, 20, 20, 140, 600}; // keys without queries, queries without keys
    check(sp::cpu{}, s);
  }
  setting s = medium(sp::full());
  s.key_docs = sp::documents({{3, 2, 2}, {5, 0, 7}, {12, 1, 1}, {20, 130, 140}, {170, 1, 1}}, 180);
  check(sp::cpu{}, s);
}

TEST_CASE("cpu: widths") {
  for (auto [dim, value_dim] : {std::pair<sp::index_t, sp::index_t>{1, 1}, {40, 64}, {33, 7}, {64, 65}}) {
    setting s = medium(sp::causal());
    s.docs = sp::packed{0, 150};
    s.dim = dim;
    s.value_dim = value_dim;
    check(sp::cpu{}, s, dim == 40);
  }
}

TEST_CASE("cpu: logits of ten thousand") {
  setting s = medium(sp::causal());
  s.loud = 1e4;
  check(sp::cpu{}, s);
}

TEST_CASE("cpu: no result is a negative zero, whether a tile is visited or not") {
  // three equal scores and values so small that their mean is no number: -1/3 of the least one rounds to a zero
  double const least = -std::numeric_limits<double>::denorm_min();
  std::vector<double> q(6, 0.0), v{least, 0, 0, 0, 0, least}, out(6, 0.0), lse(3, -std::numeric_limits<double>::infinity());
  sp::run const all{0, 3, 1};
  sp::cpu<> const kernel;
  auto plan = kernel.prepare({{{all, 0, 0}}, {{all, 0, 0}}, {{0, 3, 0, 3}}});
  sp::kv_views<double> keys{support::tensor<3>(q, {3, 1, 2}), support::tensor<3>(v, {3, 1, 2})};
  sp::pool memory;
  sp::call_params n{sp::all_heads(1, 1)};
  sp::view<double const, 3> queries = support::tensor<3>(q, {3, 1, 2});
  kernel.forward<double>(plan, memory, n, queries, std::span<sp::kv_views<double> const>(&keys, 1),
                         {support::tensor<3>(out, {3, 1, 2}), support::tensor<2>(lse, {3, 1})});
  for (double x : out) {
    CHECK(x == 0);
    CHECK(!std::signbit(x));
  }
}

TEST_CASE("cpu: features") {
  setting s = medium(sp::window(120, 2));
  s.docs = sp::packed{0, 7, 7, 8, 150, 170}.with_ids(std::vector<sp::index_t>{5, 4, 1000, 2, 77});
  s.q_heads = 6;
  s.kv_heads = 3;
  s.head_parts = 4;
  s.softcap = 0.75;
  s.slopes = slopes;
  s.dropout = 0.25;
  check(sp::cpu{sp::dropout{0.25}, sp::softcap{0.75}, sp::alibi{slopes}}, s);
  for (auto at : {sp::align::begin, sp::align::end}) { // fewer queries than keys, and more: decode stands on the last key
    setting cross = s;
    cross.key_docs = sp::packed{0, 30, 30, 33, 150, 470};
    cross.rule = sp::window(300, 20, at);
    check(sp::cpu{sp::dropout{0.25}, sp::softcap{0.75}, sp::alibi{slopes}}, cross);
  }
  scene<double> few(s);
  CHECK_THROWS_WITH_AS(few.run(sp::cpu{sp::dropout{0.25}, sp::softcap{0.75}, sp::alibi{std::span(slopes).first(3)}}, few.whole()),
                       doctest::Contains("q head 3 has no slope, 3 were given"), sp::error);
}

TEST_CASE("cpu: folding the keys in two calls continues the softmax") {
  scene<double> s(medium(sp::causal()));
  auto c = s.whole();
  c.k = {{{0, 130, 1}, {300, 20, 1}}, {{130, 170, 1}, {320, 100, 1}}};
  c.rotate = true;
  auto e = s.against(s.run(sp::cpu{}, c), s.expected());
  CHECK(worst(e) < 1e-12);
  std::swap(c.k[0], c.k[1]); // in any order
  e = s.against(s.run(sp::cpu{}, c), s.expected());
  CHECK(worst(e) < 1e-12);
}

#endif

} // namespace test_cpu
