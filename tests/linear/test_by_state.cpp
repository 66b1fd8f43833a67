// Linear attention by state against the recurrence over the whole stream: forms of maps, shardings, degrees, heads, states, gradients.
// A document never sees another; a token changes nothing before it; bytes equal what is counted from the owners of tokens.
#include <doctest/doctest.h>

#include <set>

#include "linear/linear_trial.hpp"
#include "linear/recurrent_delta.hpp"

namespace test_by_state {
namespace {

using namespace linear_trial;
using sp::linear_strategy;

template <class Kernel, class T, class Place = support::host_place>
void check_trials(unsigned seed, int trials, double bound, bool normalised = true) {
  std::mt19937 random(seed);
  for (int i = 0; i < trials; ++i) {
    scene s = drawn_scene(random);
    s.normalise = s.normalise && normalised;
    cut k = drawn_cut(s, 1 + (i * 3 + i / 8) % 8, random);
    k.options.strategy = linear_strategy::state;
    inputs const in = draw<Kernel, T>(s, random);
    CAPTURE(i);
    CAPTURE(k.parts);
    CAPTURE(k.how.kind);
    CAPTURE(k.listed.size());
    bool agreed = false;
    results const expected = oracle<Kernel>(s, in).r;
    auto const parts = run<Kernel, T, Place>(s, k, in, unsigned(i));
    CHECK(error(s, joined<Kernel>(s, k, parts, agreed), expected) <= allowed<Kernel, T, Place>(s, in, expected, bound));
    CHECK(agreed);
    if (!s.final && k.options.checks < 2) check_stated_bytes(parts); // what is stated leaves states and comparisons aside
  }
}

TEST_CASE("by state: outputs, states and gradients are the recurrence's, for maps of every form [asan] [tsan]") {
  check_trials<sp::gated_delta, double>(1, 40, 1e-11);
#ifndef SP_TEST_SANITIZED // maps of other forms take the same ways
  check_trials<sp::gated_linear, double>(2, 16, 1e-11);
  check_trials<sp::scalar_decay, double>(3, 16, 1e-11);
  check_trials<sp::plain_linear, double>(4, 16, 1e-11);
#endif
}
#ifndef SP_TEST_SANITIZED // no tagged case is below
TEST_CASE("by state: float is as exact as one rank is") {
  check_trials<sp::gated_delta, float>(5, 24, 1e-4);
  check_trials<sp::gated_linear, float>(13, 8, 1e-4);
}
TEST_CASE("by state: queues that work later, in memory of their own, give the same") {
  check_trials<linear_tests::recurrent_delta<support::elsewhere>, double, support::late_place>(6, 18, 1e-11, false);
}
TEST_CASE("by state: what is kept outlives the thread that forward was called on, and dies on another one") {
  using far = linear_tests::recurrent_delta<support::elsewhere>;
  std::mt19937 random(14);
  scene s{sp::packed{0, 30, 41}};
  s.normalise = false, s.initial = s.final = true;
  cut const k{.parts = 3, .options = {.strategy = linear_strategy::state}};
  inputs const in = draw<far, double>(s, random);
  bool agreed = false;
  results const all = joined<far>(s, k, run<far, double, support::late_place, on_threads>(s, k, in), agreed);
  CHECK(agreed);
  CHECK(error(s, all, oracle<far>(s, in).r) < 1e-11);
}
template <class Kernel, class Place>
void check_exact(scene s, bool normalised) {
  std::mt19937 random(15);
  s.normalise = normalised, s.initial = s.final = true;
  cut const k{.parts = 3, .options = {.strategy = linear_strategy::state}};
  inputs const in = draw<Kernel, double>(s, random);
  bool agreed = false;
  results const all = joined<Kernel>(s, k, run<Kernel, double, Place, in_exact_memory>(s, k, in), agreed);
  CHECK(agreed);
  CHECK(error(s, all, oracle<Kernel>(s, in).r) < 1e-11);
}
TEST_CASE("by state: passes are made in the bytes that are said beforehand, infer's too, whatever a kernel keeps") {
  check_exact<linear_tests::recurrent_delta<support::elsewhere>, support::late_place>({sp::packed{0, 90, 97}, {0, 2, 4, 9, 10}},
                                                                                      false);
  check_exact<sp::gated_delta, support::host_place>({sp::packed{0, 810, 817}, {0, 1, 2, 16, 16}}, true);
}
TEST_CASE("by state: streams of no documents, of empty ones, and ranks without a row") {
  std::mt19937 random(12);
  for (sp::documents const& docs :
       {sp::documents({}, 0), sp::documents({}, 5), sp::documents(sp::packed{0, 0, 0}), sp::documents(sp::packed{0, 1})})
    for (int parts : {1, 3}) {
      scene s{docs};
      s.initial = s.final = true;
      cut const k{.parts = parts, .options = {.strategy = linear_strategy::state}};
      inputs const in = draw<sp::gated_delta, double>(s, random);
      bool agreed = false;
      results const all = joined<sp::gated_delta>(s, k, run<sp::gated_delta, double>(s, k, in), agreed);
      CHECK(agreed);
      CHECK(error(s, all, oracle<sp::gated_delta>(s, in).r) < 1e-13);
    }
}

using kernel = sp::gated_delta;

/// Who has the tokens of a document, without repetitions: 0 1 2 2 1 0 becomes 0 1 2 1 0.
std::vector<int> owners(scene const& s, cut const& k, std::size_t d) {
  std::vector<int> of(at(s.docs[d].count)), chains;
  for (int p = 0; p < k.parts; ++p)
    sp::for_each_row(k.batch(s, p), [&](sp::local_row const& r) {
      if (r.real && r.document == d) of[at(r.offset)] = p;
    });
  for (int p : of)
    if (chains.empty() || chains.back() != p) chains.push_back(p);
  return chains;
}

TEST_CASE(
    "by state: a pass sends what later owners lack: states that leave first segments, maps of those between, nothing else") {
  std::mt19937 random(9);
  for (int i = 0; i < 24; ++i) {
    scene s{sp::packed{0, 1, 17, 17, 60}};
    s.final = i % 3 == 0;
    cut k{.parts = 1 + i % 6};
    k.how = {i % 2, i % 4 < 2 ? sp::scope::stream : sp::scope::document, k.parts % 2 == 0 && i % 5 == 0 ? 2 : 1};
    k.options.strategy = linear_strategy::state;
    auto const parts = run<kernel, float>(s, k, draw<kernel, float>(s, random));
    index_t const state = s.state() * 4, map = s.shape.v_heads * s.shape.key_dim * s.shape.key_dim * 4;
    std::vector<index_t> forward(at(k.parts)), backward(forward), ends(forward), begins(forward);
    index_t documents = 0;
    for (std::size_t d = 0; d < s.docs.size(); ++d) {
      std::vector<int> chain = owners(s, k, d);
      if (chain.empty()) continue;
      ++documents, ++ends[at(chain.back())];
      for (auto* sent : {&forward, &backward}) {
        for (std::size_t c = 0; c + 1 < chain.size(); ++c) {
          std::set<int> later(chain.begin() + std::ptrdiff_t(c) + 1, chain.end());
          later.erase(chain[c]);
          (*sent)[at(chain[c])] += index_t(later.size()) * (state + (c > 0 ? map : 0));
        }
        std::reverse(chain.begin(), chain.end());
      }
    }
    index_t all_forward = 0, all_backward = 0;
    for (int p = 0; p < k.parts; ++p) {
      auto const& mine = parts[at(p)];
      CHECK(mine.forward_bytes == forward[at(p)] + (s.final ? ends[at(p)] * (k.parts - 1) * state : 0));
      CHECK(mine.backward_bytes == backward[at(p)] + (s.final ? (documents - ends[at(p)]) * state : 0));
      all_forward += forward[at(p)], all_backward += backward[at(p)];
    }
    CHECK(parts[0].stated.forward == all_forward);
    CHECK(parts[0].stated.backward == all_backward);
  }
}

TEST_CASE("by state: over the stream bytes do not depend on its length") {
  std::mt19937 random(10);
  for (index_t const n : {40, 333}) {
    scene s{sp::packed{0, n}};
    cut k{.parts = 4};
    k.options.strategy = linear_strategy::state;
    auto const parts = run<kernel, float>(s, k, draw<kernel, float>(s, random));
    index_t const b = 2 * 4 * 3, m = 2 * 4 * 4; // heads x key dim x value dim; heads x key dim x key dim
    index_t const contiguous[] = {3 * b, 2 * (b + m), b + m, 0};
    for (int p = 0; p < 4; ++p) {
      CHECK(parts[at(p)].forward_bytes == 4 * contiguous[p]);
      CHECK(parts[at(p)].backward_bytes == 4 * contiguous[3 - p]);
    }
    k.how.kind = support::any_sharding::zigzag; // 0 1 2 3 2 1 0: two maps per rank
    index_t const zigzag = 4 * ((3 + 3 + 3 + 3 + 2 + 1) * b + (3 + 3 + 3 + 2 + 1) * m);
    CHECK(run<kernel, float>(s, k, draw<kernel, float>(s, random))[0].stated.forward == zigzag);
  }
}
#endif

} // namespace
} // namespace test_by_state
