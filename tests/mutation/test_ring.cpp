// The ring in double with every feature at once: all schedules against the oracle, every gradient included.
// Compiles in seconds, because tests/mutation.sh builds it again for each bug that it plants in the ring.
#include <doctest/doctest.h>

#include "mutation/problem.hpp"
#include "support/failure.hpp"

namespace test_ring {
namespace {

using namespace sentinel;

auto ring(sp::attention_options options) {
  return [options](sp::threads const& c, sp::mesh const& m) {
    return sp::ring_attention<comm, kernel>{m.ring(c), kernel(), options};
  };
}

void check_all(problem const& p, way w, numbers const& want) {
  for (sp::attention_options const& options : every_schedule(p.mask, p.scale)) {
    CAPTURE(int(options.schedule));
    CAPTURE(options.head_chunks);
    CAPTURE(w.ring);
    CAPTURE(w.stripes);
    w.options = options;
    check(run(p, w, ring(w.options)), want);
  }
}

void check_all(problem const& p, way const& w) { check_all(p, w, p.truth()); }

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

TEST_CASE("ring: decode is the last rows of self attention, for every mask, schedule, feature and gradient") {
  int kind = 0;
  for (decode const& d : decodes()) {
    CAPTURE(kind);
    check_all(d.part, {.ring = 3, .stripes = kind % 2 > 0, .padded = kind % 3 > 0}, d.want);
    ++kind;
  }
}

TEST_CASE("ring: ALiBi wants to know where queries stand, also where they see every key") {
  problem const p = cross_attention();
  way const w{};
  auto prepare = [&](sp::mask const& mask) {
    sp::threads::run(
        w.ring,
        [&](sp::threads const& c) {
          rank_batches b(p, w, c);
          static_cast<void>(ring({.mask = mask})(c, w.mesh()).prepare(b.qb, b.kb));
        },
        patience);
    return 0;
  };
  auto e = support::failure_of([&] { return prepare(sp::full()); });
  CHECK(support::says(e, sp::errc::bad_mask, "document 0 has 5 queries and 9 keys", "which ALiBi needs"));
  CHECK(e.primitive == "ring_attention.prepare");
  CHECK(prepare(sp::full(sp::align::begin)) == 0);
  CHECK(prepare(sp::full(sp::align::end)) == 0);
}

TEST_CASE("ring: cross attention over padded shapes, slack holds NaN") {
  check_all(cross_attention(), {.ring = 3, .padded = true});
}

} // namespace
} // namespace test_ring
