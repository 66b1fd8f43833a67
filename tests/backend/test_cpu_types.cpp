// The CPU backend in float, bf16 and fp16: no worse than twice the scalar reference of the same type, and the same bits by parts.
// The exponential and hyperbolic tangent it computes with, over their whole range.
// optimised: long products
#include <doctest/doctest.h>

#include <sp/cpu.hpp>
#include <sp/reference.hpp>

#include "backend/by_parts.hpp"
#include "support/wide.hpp"

namespace test_cpu_types {
namespace {

using namespace backend_tests;

setting medium() {
  setting s{.docs = sp::packed{0, 7, 7, 8, 290, 400}, .q_heads = 4, .kv_heads = 2, .dim = 40, .value_dim = 24};
  s.head_parts = 3;
  return s;
}

template <class T, class Cpu, class Reference>
void check(Cpu const& cpu, Reference const& reference, setting const& set) {
  scene<T> s(set);
  auto expected = s.expected();
  auto whole = s.run(cpu, s.whole());
  auto mine = s.against(whole, expected), its = s.against(s.run(reference, s.whole()), expected);
  CAPTURE(mine);
  CAPTURE(its);
  for (std::size_t i = 0; i < mine.size(); ++i) CHECK(mine[i] <= 2 * its[i] + 2.5e-7);
  CHECK(s.run(cpu, s.cut_by(sp::striped{}, 3)) == whole);
  CHECK(s.run(cpu, s.cut_by(sp::zigzag{}, 2)) == whole);
  mine = s.against(s.run(cpu, s.cut_by(sp::zigzag{}, 3, true)), expected);
  for (std::size_t i = 0; i < mine.size(); ++i) CHECK(mine[i] <= 2 * its[i] + 4e-7);
}

} // namespace

TEST_CASE("cpu types: float, bf16, fp16 [asan]") {
  setting s = medium();
#ifdef SP_TEST_SANITIZED
  if (!support::wide()) s.docs = sp::packed{0, 7, 7, 8, 150, 200}; // a tile and a part of one
#endif
  check<sp::bf16>(sp::cpu{}, sp::reference{}, s);
#ifndef SP_TEST_SANITIZED
  check<float>(sp::cpu{}, sp::reference{}, medium());
  check<sp::fp16>(sp::cpu{}, sp::reference{}, medium());
#endif
}

#ifndef SP_TEST_SANITIZED

TEST_CASE("cpu types: loud float") {
  setting s = medium();
  s.loud = 3e3; // logits of ten thousand
  check<float>(sp::cpu{}, sp::reference{}, s);
}

TEST_CASE("cpu types: float features") {
  std::vector<float> slopes{0.5f, 0.25f, 0.125f, 0.0625f};
  setting s = medium();
  s.softcap = 2;
  s.slopes = slopes;
  s.dropout = 0.1;
  check<float>(sp::cpu{sp::softcap{2}, sp::alibi{slopes}, sp::dropout{0.1}},
               sp::reference{sp::softcap{2}, sp::alibi{slopes}, sp::dropout{0.1}}, s);
}

TEST_CASE("cpu types: exp and tanh over their range") {
  using V = sp::detail::simd<float>;
  double worst_exp = 0, worst_tanh = 0;
  for (double x = -87; x < 88; x += 0.00137) {
    double e = V(exp_of(V(float(x)))).v[0], t = tanh_of(V(float(x / 8))).v[0];
    worst_exp = std::max(worst_exp, std::fabs(e / std::exp(double(float(x))) - 1));
    worst_tanh = std::max(worst_tanh, std::fabs(t / std::tanh(double(float(x / 8))) - 1));
  }
  CHECK(worst_exp < 2e-7);
  CHECK(worst_tanh < 3e-7);
  float inf = std::numeric_limits<float>::infinity();
  CHECK(exp_of(V(0.0f)).v[0] == 1);
  CHECK(exp_of(V(-inf)).v[0] == 0);
  CHECK(exp_of(V(-1e30f)).v[0] == 0);
  CHECK(std::isnan(exp_of(V(std::nanf(""))).v[0]));
  CHECK(tanh_of(V(-inf)).v[0] == -1);
  CHECK(tanh_of(V(100.0f)).v[0] == 1);
}

#endif

} // namespace test_cpu_types
