// cuda_flash on an emulated block against the oracle in float64, forward and backward: no worse than twice a plain computation that rounds
// probabilities and gradients of scores to the element type as well, and bit for bit the same however rows and keys are spread.
// needs: context
// with all: takes long to compile
#include <doctest/doctest.h>

#include <sp/cuda_flash.hpp>

#include "backend/by_parts.hpp"
#include "cuda/rounded_reference.hpp"
#include "support/emulated_queue.hpp"
#include "support/wide.hpp"

namespace test_cuda_flash {
namespace {

using namespace backend_tests;

/// Tiles so small that a few rows are several; two warps of the forward pass share them.
struct tiny {
  static constexpr sp::detail::flash_shape shape{.forward_rows = 32, .backward_rows = 16, .keys = 16, .slabs = 1};
  using dims = sp::detail::head_dims<16, 32>;
};
template <class... Features>
using flash = support::emulated_backend<sp::basic_cuda_flash<tiny, Features...>>;

/// Tiles that are computed in two parts.
struct flat {
  static constexpr sp::detail::flash_shape shape{.forward_rows = 32, .backward_rows = 64, .keys = 64, .slabs = 1};
  using dims = sp::detail::head_dims<32>;
};
constexpr sp::flash_options in_order{.deterministic = true};

setting small() { return {.docs = sp::packed{0, 5, 5, 6, 51}, .q_heads = 2, .kv_heads = 1, .dim = 16, .value_dim = 8}; }

/// The bounds of RELIABILITY for 16 bits: twice the error of a plain computation of the same precision, and 0.01.
template <class T>
void check_errors(scene<T> const& s, outcome<float> const& found, outcome<float> const& plain) {
  auto const expected = s.expected();
  auto const e = s.against(found, expected), its = s.against(plain, expected);
  CAPTURE(e);
  CAPTURE(its);
  for (std::size_t i = 0; i < e.size(); ++i) {
    CHECK(e[i] <= 2 * its[i] + 2e-6);
    CHECK(e[i] <= 0.01);
  }
}

/// In one piece, part by part on a state that goes on, and as dq on its own beside dk and dv.
template <class T, class Backend, class Plain>
void check(Backend const& mine, Plain const& plain, setting const& set, bool bits = true) {
  CAPTURE(set.seed);
  scene<T> s(set);
  auto const rounded = s.run(plain, s.whole());
  check_errors(s, s.run(mine, s.cut_by(sp::striped{}, 3, true)), rounded);
  auto const whole = s.run(mine, s.whole());
  check_errors(s, whole, rounded);
  if (!bits) return;
  CHECK(s.run(mine, s.cut_by(sp::zigzag{}, 2)) == whole);
  CHECK(s.run(mine, s.cut_by(sp::striped{}, 3)) == whole);
}

} // namespace

TEST_CASE("cuda_flash: causal documents, whole, by parts and in steps [asan]") {
  check<sp::bf16>(flash<>{{}}, rounded_reference{}, small(), false);
#ifndef SP_TEST_SANITIZED
  check<sp::fp16>(flash<>{sp::basic_cuda_flash<tiny>{in_order}}, rounded_reference{}, small());
#endif
}

TEST_CASE("cuda_flash: random scenes [asan]") {
#ifdef SP_TEST_SANITIZED
  unsigned const seeds = support::wide() ? 6 : 2;
#else
  unsigned const seeds = support::wide() ? 60 : 4;
#endif
  for (unsigned seed = 1; seed <= seeds; ++seed) {
    std::mt19937 gen(seed);
    auto upto = [&](unsigned n) { return static_cast<index_t>(gen() % (n + 1)); };
    std::vector<index_t> offsets{0};
    for (index_t d = upto(2); d >= 0; --d) offsets.push_back(offsets.back() + (gen() % 3 ? upto(12) : upto(60)));
    setting s{.docs = sp::documents::packed(offsets, offsets.back() + upto(3))};
    if (gen() % 3 == 0) s.rule = sp::window(upto(20) - 3, upto(20) + 3);
    if (gen() % 3 == 0)
      for (sp::document const& d : s.docs) s.rule.prefix.push_back(upto(static_cast<unsigned>(d.count)));
    s.kv_heads = 1 + upto(1);
    s.q_heads = s.kv_heads * (1 + upto(2));
    s.dim = 8 + 8 * upto(3);
    s.value_dim = 8 + 8 * upto(3);
    s.head_parts = 1 + upto(2);
    s.seed = seed;
    if (seed % 3 == 0)
      check<sp::bf16>(support::emulated_backend<sp::basic_cuda_flash<flat>>{sp::basic_cuda_flash<flat>{in_order}},
                      rounded_reference{}, s, seed % 2 == 1);
    else
      check<sp::bf16>(flash<>{{}}, rounded_reference{}, s, false);
  }
}

#ifndef SP_TEST_SANITIZED

TEST_CASE("cuda_flash: several warps, tiles in two parts") {
  setting s = small();
  s.docs = sp::packed{0, 150};
  s.q_heads = 1;
  check<sp::bf16>(support::emulated_backend<sp::basic_cuda_flash<flat>>{sp::basic_cuda_flash<flat>{}}, rounded_reference{}, s,
                  false);
}

TEST_CASE("cuda_flash: the tiles that are shipped, several heads a key head") {
  setting s = small();
  s.docs = sp::packed{0, 9, 150};
  s.rule = sp::window(70, 0);
  s.dim = s.value_dim = 64;
  check<sp::bf16>(support::emulated_backend<sp::cuda_flash<>>{sp::cuda_flash{}}, rounded_reference{}, s, false);
}

TEST_CASE("cuda_flash: slices of any kind, rows that see nothing or that no slice covers") {
  setting s = small();
  s.docs = sp::packed{0, 60};
  s.rule = sp::user_slices({{5, 20, 7, 30, -3, 12}, {20, 26, 40, 60}, {20, 41, 3, 9}, {50, 60, 0, 1}, {50, 60, 55, 60, -2, 0}});
  check<sp::bf16>(flash<>{sp::basic_cuda_flash<tiny>{in_order}}, rounded_reference{}, s);
  s.docs = sp::packed{0, 48};
  s.rule = sp::image_spans(std::vector<sp::document>{{4, 6, 6}, {20, 20, 20}});
  check<sp::bf16>(flash<>{{}}, rounded_reference{}, s, false);
}

TEST_CASE("cuda_flash: keys behind the end of a tile that every query sees add nothing to dq") {
  std::vector<float> const slopes{0.5f, 0.125f};
  setting s{.docs = sp::packed{0, 40}, .q_heads = 2, .kv_heads = 1, .dim = 16, .value_dim = 16};
  s.rule = sp::full();
  s.head_parts = 2; // the slope is that of the global head
  s.slopes = slopes;
  sp::alibi const biases{slopes};
  check<sp::bf16>(flash<sp::alibi>{sp::basic_cuda_flash<tiny, sp::alibi>{biases}}, rounded_reference{biases}, s, false);
}

TEST_CASE("cuda_flash: queries and keys of other numbers") {
  for (auto at : {sp::align::begin, sp::align::end}) {
    setting s = small();
    s.docs = sp::packed{0, 7, 8, 8, 40};
    s.rule = sp::mask{.hi = 0, .at = at};
    s.key_docs = sp::packed{0, 30, 32, 35, 50};
    check<sp::bf16>(flash<>{{}}, rounded_reference{}, s, false);
  }
}

TEST_CASE("cuda_flash: features, by places in the document and global heads") {
  std::vector<float> const slopes{0.5f, 0.25f, 0.125f, 0.0625f, 0.5f, 0.25f};
  setting s = small();
  s.docs = sp::packed{0, 7, 7, 8, 40}.with_ids(std::vector<index_t>{5, 4, 1000, 77});
  s.q_heads = 6;
  s.kv_heads = 3;
  s.head_parts = 4;
  s.softcap = 0.75;
  s.slopes = slopes;
  s.dropout = 0.25;
  sp::dropout const dropout{0.25};
  sp::softcap const cap{0.75};
  sp::alibi const biases{slopes};
  using all = sp::basic_cuda_flash<tiny, sp::dropout, sp::softcap, sp::alibi>;
  check<sp::bf16>(support::emulated_backend<all>{all{dropout, cap, biases}}, rounded_reference{dropout, cap, biases}, s, false);
  check<sp::fp16>(support::emulated_backend<all>{all{in_order, dropout, cap, biases}}, rounded_reference{dropout, cap, biases},
                  s);
}

#endif

} // namespace test_cuda_flash
