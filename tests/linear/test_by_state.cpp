// Linear attention by state against the recurrence over the whole stream: forms of maps, shardings, degrees, heads, states, gradients.
// A document never sees another; a token changes nothing before it; bytes equal what is counted from segments.
#include <doctest/doctest.h>

#include "linear/linear_trial.hpp"
#include "support/failure.hpp"

namespace test_by_state {
namespace {

using namespace linear_trial;

template <class Kernel, class T>
void check_trials(unsigned seed, int trials, double bound) {
  std::mt19937 random(seed);
  for (int i = 0; i < trials; ++i) {
    scene const s = drawn_scene(random);
    cut k = drawn_cut(s, 1 + (i * 3 + i / 8) % 8, random);
    k.options.strategy = sp::linear_strategy::state;
    inputs const in = draw<Kernel, T>(s, random);
    CAPTURE(i);
    CAPTURE(k.parts);
    CAPTURE(k.how.kind);
    CAPTURE(k.listed.size());
    bool agreed = false;
    results const all = joined<Kernel>(s, k, run<Kernel, T>(s, k, in, unsigned(i)), agreed);
    CHECK(agreed);
    CHECK(error(s, all, oracle<Kernel>(s, in).r) < bound);
  }
}

TEST_CASE("by state: outputs, states and gradients are the recurrence's [asan]") {
  check_trials<sp::gated_delta, double>(1, 32, 1e-11);
}

} // namespace
} // namespace test_by_state
