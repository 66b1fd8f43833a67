// Linear attention and documents, by state and by heads: none sees another, and within one a token changes nothing before it.
// Bits are compared, and what must not be seen is NaN.
#include <doctest/doctest.h>

#include "linear/linear_trial.hpp"

namespace test_documents {
namespace {

using namespace linear_trial;
using sp::linear_strategy;
using kernel = sp::gated_delta;

cut by(linear_strategy strategy, cut k) {
  k.options.strategy = strategy;
  return k;
}
results pass(scene const& s, cut const& k, inputs const& in) {
  bool agreed = false;
  return joined<kernel>(s, k, run<kernel, double>(s, k, in), agreed);
}

TEST_CASE("linear documents: prime-rl#3003: packed boundaries: nothing of one document reaches another, forward or backward") {
  std::mt19937 random(7);
  scene s{sp::packed{0, 5, 6, 6, 13, 15, 30}};
  s.initial = s.final = true;
  cut listed{.parts = 3};
  listed.listed = drawn_runs(s.docs, 3, random);
  inputs const in = draw<kernel, double>(s, random);
  for (cut const& k : {by(linear_strategy::state, {.parts = 3}), by(linear_strategy::heads, {.parts = 3}),
                       by(linear_strategy::state, {.parts = 4, .how = {support::any_sharding::zigzag, sp::scope::stream}}),
                       by(linear_strategy::heads, {.parts = 4, .how = {support::any_sharding::striped}}),
                       by(linear_strategy::state, listed), by(linear_strategy::heads, listed)}) {
    CAPTURE(int(k.options.strategy));
    results const before = pass(s, k, in);
    for (index_t const j : {0, 5, 12, 13, 29}) { // token j becomes NaN: first ones, last ones, whole documents
      inputs changed = in;
      std::size_t d = 0;
      while (!s.docs[d].holds(j)) ++d;
      auto const row = [&](numbers& x) {
        std::fill_n(x.begin() + std::ptrdiff_t(x.size() / 30 * at(j)), x.size() / 30, rubbish);
      };
      row(changed.q), row(changed.k), row(changed.v), row(changed.dout), row(changed.gates[0]), row(changed.gates[1]);
      results const after = pass(s, k, changed);
      auto own = [&](index_t t) { return s.docs[d].holds(t); };
      bool kept = same_rows(after.out, before.out, 30, own) && same_rows(after.dq, before.dq, 30, own) &&
                  same_rows(after.dk, before.dk, 30, own) && same_rows(after.dv, before.dv, 30, own);
      for (std::size_t i = 0; i < 2; ++i) kept = kept && same_rows(after.dgates[i], before.dgates[i], 30, own);
      auto same_document = [&](index_t x) { return std::size_t(x) == d; };
      index_t const docs = index_t(s.docs.size());
      CHECK(kept);
      CHECK(same_rows(after.final, before.final, docs, same_document));
      CHECK(same_rows(after.dinitial, before.dinitial, docs, same_document));
      CHECK(std::isnan(after.out[after.out.size() / 30 * at(j)]));
    }
  }
}

TEST_CASE("linear documents: a token changes no bit of the outputs before it, its dout none of the gradients behind it") {
  std::mt19937 random(8);
  scene s{sp::packed{0, 4, 40, 43}};
  inputs const in = draw<kernel, double>(s, random);
  for (cut const& k : {by(linear_strategy::state, {.parts = 3}),
                       by(linear_strategy::state, {.parts = 3, .how = {support::any_sharding::zigzag}}),
                       by(linear_strategy::heads, {.parts = 3}),
                       by(linear_strategy::heads, {.parts = 3, .how = {support::any_sharding::striped}})}) {
    CAPTURE(int(k.options.strategy));
    results const before = pass(s, k, in);
    for (index_t const j : {5, 20, 39}) {
      inputs changed = in;
      for (numbers* x : {&changed.q, &changed.k, &changed.v, &changed.gates[0], &changed.gates[1], &changed.dout})
        (*x)[x->size() / 43 * at(j)] -= 0.5;
      results const after = pass(s, k, changed);
      CHECK(same_rows(after.out, before.out, 43, [&](index_t t) { return j <= t && t < 40; }));
      CHECK(!same_rows(after.out, before.out, 43, [&](index_t t) { return t > j; }));
      changed = in;
      changed.dout[changed.dout.size() / 43 * at(j)] -= 0.5;
      results const gradients = pass(s, k, changed);
      auto earlier = [&](index_t t) { return 4 <= t && t <= j; };
      CHECK(same_rows(gradients.dk, before.dk, 43, earlier));
      CHECK(same_rows(gradients.dv, before.dv, 43, earlier));
      CHECK(same_rows(gradients.dgates[0], before.dgates[0], 43, earlier));
      CHECK(!same_rows(gradients.dv, before.dv, 43, [&](index_t t) { return t == j; }));
    }
  }
}

} // namespace
} // namespace test_documents
