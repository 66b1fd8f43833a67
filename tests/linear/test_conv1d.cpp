// Causal convolution against the naive oracle over the whole stream: widths, shardings, degrees, states, gradients, element types.
// Outputs have the bits of one rank; a document never sees another; bytes equal what readers count.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

#include "linear/conv1d_trial.hpp"
#include "support/failure.hpp"

namespace test_conv1d {
namespace {

using namespace conv1d_trial;

/// Documents of few tokens, empty ones and ones of one token among them, with gaps.
sp::documents drawn_documents(std::mt19937& random, int most) {
  std::vector<sp::document> list;
  index_t begin = 0;
  for (int d = 0, n = 1 + int(random() % 6); d < n; ++d) {
    index_t const count = random() % 4 == 0 ? index_t(random() % 2) : index_t(random() % unsigned(most));
    begin += random() % 3 == 0 ? 2 : 0;
    list.push_back({begin, count, count, d});
    begin += count;
  }
  return {std::move(list), begin + index_t(random() % 3)};
}
cut drawn_cut(std::mt19937& random, int parts) {
  cut k{.parts = parts};
  k.how.kind = int(random() % 3);
  k.how.over = random() % 2 ? sp::scope::stream : sp::scope::document;
  if (parts % 2 == 0 && random() % 3 == 0) k.how.inner = 2;
  k.checks = random() % 4 == 0 ? 2 : 1;
  k.shapes = random() % 2 ? sp::shapes::padded : sp::shapes::ragged;
  return k;
}
scene drawn_scene(std::mt19937& random, index_t width) {
  scene s{drawn_documents(random, 24), width};
  s.channels = 2 + index_t(random() % 3);
  s.silu = random() % 2, s.bias = random() % 2, s.initial = random() % 2, s.final = random() % 2;
  return s;
}

template <class T, class Place = support::host_place>
void check_trials(unsigned seed, int trials, double bound) {
  std::mt19937 random(seed);
  for (int i = 0; i < trials; ++i) {
    index_t const width = i % 9 == 8 ? 19 : 1 + i % 8;
    scene const s = drawn_scene(random, width);
    cut const k = drawn_cut(random, 1 + (i * 3 + i / 8) % 8);
    inputs const in = draw<T>(s, random);
    CAPTURE(i);
    CAPTURE(width);
    CAPTURE(k.parts);
    CAPTURE(k.how.kind);
    bool agreed = false, agreed_alone = false;
    results const all = joined(s, k, run<T, Place>(s, k, in, unsigned(i)), agreed);
    CHECK(agreed);
    CHECK(error(s, all, oracle(s, in)) < bound);
    cut const alone{};
    CHECK(all.out == joined(s, alone, run<T>(s, alone, in), agreed_alone).out); // bit by bit
  }
}

TEST_CASE("conv1d: every width, degree and sharding gives the oracle's outputs, states and gradients [asan] [tsan]") {
  check_trials<double>(1, 72, 1e-13);
#ifndef SP_TEST_SANITIZED
  check_trials<float>(2, 18, 1e-5);
#endif
}
#ifndef SP_TEST_SANITIZED // no tagged case is below
TEST_CASE("conv1d: streams of no documents, of empty ones, and ranks without a row") {
  std::mt19937 random(12);
  for (sp::documents const& docs :
       {sp::documents({}, 0), sp::documents({}, 5), sp::documents(sp::packed{0, 0, 0}), sp::documents(sp::packed{0, 1})})
    for (int parts : {1, 3}) {
      scene s{docs};
      s.silu = s.bias = s.initial = s.final = true;
      cut const k{.parts = parts};
      inputs const in = draw<double>(s, random);
      bool agreed = false;
      results const all = joined(s, k, run<double>(s, k, in), agreed);
      CHECK(agreed);
      CHECK(error(s, all, oracle(s, in)) < 1e-13);
    }
}
TEST_CASE("conv1d: 16-bit elements are summed in float and rounded once, or twice where gradients return") {
  check_trials<sp::bf16>(3, 9, 1.2e-2);
  check_trials<sp::fp16>(4, 9, 1.5e-3);
}
TEST_CASE("conv1d: queues that work later, in memory of their own, give the same") {
  check_trials<float, support::late_place>(5, 18, 1e-5);
  check_trials<sp::bf16, support::late_place>(6, 6, 1.2e-2);
}
#endif

} // namespace
} // namespace test_conv1d
