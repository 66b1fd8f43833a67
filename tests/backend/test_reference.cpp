// The scalar reference backend against the oracle: every mask, heads, features, documents, types; whole and by parts.
#include <doctest/doctest.h>

#include <sp/reference.hpp>

#include "backend/by_parts.hpp"

namespace test_reference {
namespace {

using namespace backend_tests;

template <class T, class Backend>
void check(Backend const& b, setting const& set, double bound) {
  scene<T> s(set);
  auto expected = s.expected();
  bound *= std::max(1.0, expected.largest_score / 1000);
  auto e = s.against(s.run(b, s.whole()), expected);
  CAPTURE(e);
  CHECK(worst(e) < bound);
  e = s.against(s.run(b, s.cut_by(sp::zigzag{}, 3)), expected);
  CHECK(worst(e) < bound);
  e = s.against(s.run(b, s.cut_by(sp::striped{}, 3, true)), expected);
  CHECK(worst(e) < bound);
}

setting small(sp::mask rule) {
  setting s{.docs = sp::packed{0, 7, 7, 8, 21}, .rule = std::move(rule)};
  s.q_heads = 2;
  s.dim = 5;
  s.value_dim = 3;
  return s;
}

} // namespace

TEST_CASE("reference: cross attention, heads and slack [asan]") {
  setting s = small(sp::mask{.hi = 0, .at = sp::align::end});
  s.key_docs = sp::packed{0, 9, 9, 9, 30};
  check<double>(sp::reference{}, s, 1e-13);
  setting heads = small(sp::causal());
  heads.docs = sp::documents({{2, 5, 6, 3}, {9, 0, 0, 1}, {9, 8, 9, 9}}, 20); // slack before, between, behind
  heads.q_heads = 6;
  heads.kv_heads = 2;
  for (sp::index_t parts : {1, 2, 4}) { // 4: heads 1, 2, 1, 2 on kv heads that two parts share
    heads.head_parts = parts;
    check<double>(sp::reference{}, heads, 1e-13);
  }
}

#ifndef SP_TEST_SANITIZED

TEST_CASE("reference: masks in double") {
  sp::document image{10, 4, 4};
  for (sp::mask const& m : {sp::full(), sp::causal(), sp::window(3), sp::window(2, 1), sp::prefix_lm({3, 0, 1, 5}),
                            sp::image_spans(std::span(&image, 1)), sp::user_slices({{1, 5, 2, 6}, {9, 20, 9, 15, -3, 2}})})
    check<double>(sp::reference{}, small(m), 1e-13);
  setting loud = small(sp::causal());
  loud.loud = 1e4;
  check<double>(sp::reference{}, loud, 1e-12);
}

TEST_CASE("reference: features") {
  std::vector<float> slopes{0.5f, 0.25f, 0.125f, 0.0625f};
  setting s = small(sp::window(6, 2));
  s.docs = sp::packed{0, 7, 7, 8, 21}.with_ids(std::vector<sp::index_t>{5, 4, 1000, 2});
  s.q_heads = 4;
  s.kv_heads = 2;
  s.slopes = slopes;
  check<double>(sp::reference{sp::alibi{slopes}}, s, 1e-13);
  s.softcap = 0.75;
  s.dropout = 0.25;
  s.head_parts = 3; // ragged: 1, 1, 2
  check<double>(sp::reference{sp::softcap{0.75}, sp::alibi{slopes}, sp::dropout{0.25}}, s, 1e-13);
  for (auto at : {sp::align::begin, sp::align::end}) { // fewer queries than keys, and more: decode stands on the last key
    setting cross = s;
    cross.key_docs = sp::packed{0, 12, 12, 15, 20};
    cross.rule = sp::window(9, 2, at);
    check<double>(sp::reference{sp::softcap{0.75}, sp::alibi{slopes}, sp::dropout{0.25}}, cross, 1e-13);
  }
  scene<double> few(s);
  CHECK_THROWS_WITH_AS(few.run(sp::reference{sp::alibi{std::span(slopes).first(3)}}, few.whole()),
                       doctest::Contains("q head 3 has no slope, 3 were given"), sp::error);
}

TEST_CASE("reference: the other types") {
  check<float>(sp::reference{}, small(sp::causal()), 1e-6);
  check<sp::bf16>(sp::reference{}, small(sp::causal()), 1e-6); // sums are float, inputs the oracle's
  check<sp::fp16>(sp::reference{}, small(sp::causal()), 1e-6);
}

#endif

} // namespace test_reference
