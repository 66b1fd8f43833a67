// The ring in double with every feature at once: all schedules against the oracle, every gradient included.
// Compiles in seconds, because tests/mutation.sh builds it again for each bug that it plants in the ring.
#include <doctest/doctest.h>

#include "mutation/problem.hpp"

namespace test_ring {
namespace {

using namespace sentinel;

auto ring(sp::attention_options const& options) {
  return [&options](sp::threads const& c, sp::mesh const& m) {
    return sp::ring_attention<comm, kernel>{m.ring(c), kernel(), options};
  };
}

void check_all(problem const& p, way w) {
  numbers const want = p.truth();
  for (sp::attention_options const& options : every_schedule(p.mask, p.scale)) {
    CAPTURE(int(options.schedule));
    CAPTURE(options.head_chunks);
    CAPTURE(w.ring);
    CAPTURE(w.stripes);
    w.options = options;
    check(run(p, w, ring(w.options)), want);
  }
}

TEST_CASE("ring: every schedule, feature and gradient agrees with the oracle") {
  for (int ranks : {1, 3, 4})
    for (bool stripes : {false, true}) check_all(self_attention(), {.ring = ranks, .stripes = stripes});
}

TEST_CASE("ring: the caller's scale is taken as it is, negative or small") {
  problem p = self_attention();
  for (double scale : {-0.7, 1e-3}) {
    p.scale = scale;
    check_all(p, {.ring = 3});
  }
}

TEST_CASE("ring: gradients are added to what is there where that is asked for") {
  check_all(self_attention(), {.ring = 3, .accumulate = true});
}

TEST_CASE("ring: cross attention over padded shapes, slack holds NaN") {
  check_all(cross_attention(), {.ring = 3, .padded = true});
}

} // namespace
} // namespace test_ring
