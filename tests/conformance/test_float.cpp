// Conformance in float: no worse than twice the error of the same kernel on one rank, and four units in the last place.
// Every object, both kernels; features are compiled into the cpu kernel, the others are proven in double.
// optimised: hundreds of trials
// with all: conformance.half sums in float, too
#include <sp/workers.hpp>

#include "check.hpp"

namespace test_float {

using namespace conformance;

namespace {
constexpr int cases = 6;
}

TEST_CASE("ring, cpu kernel") { conformance_of<float, object_kind::ring, sp::cpu, false>(seconds() / cases); }
TEST_CASE("ulysses, cpu kernel") { conformance_of<float, object_kind::ulysses, sp::cpu, false>(seconds() / cases); }
TEST_CASE("usp, cpu kernel") { conformance_of<float, object_kind::usp, sp::cpu, false>(seconds() / cases); }
TEST_CASE("ring, cpu kernel with every feature") { conformance_of<float, object_kind::ring, sp::cpu, true>(seconds() / cases); }
TEST_CASE("usp, cpu kernel with every feature") { conformance_of<float, object_kind::usp, sp::cpu, true>(seconds() / cases); }
TEST_CASE("ring, reference kernel") { conformance_of<float, object_kind::ring, sp::reference, false>(seconds() / cases); }

TEST_CASE("usp, cpu kernel: calls that are work of several threads have the bits of one") {
  int compared = 0;
  auto body = [&](trial t) {
    if (++compared > 40) return; // of the covering sample, its first and most different
    t.short_form = false;
    inputs<float> const in(t);
    outcome<float> one(t, t.ranks), several(t, t.ranks);
    run<object_kind::usp>(t, in, sp::cpu{}, one);
    // two threads beside the ranks, and every pass is cut, however small
    sp::workers const shared{t.ranks + 2, {.ranks = t.ranks, .spin = compared % 2 * 100, .smallest_share = 1}};
    in_threads{}.run(t.ranks, several, [&](sp::threads const& comm, outcome<float>& to) {
      run_rank<object_kind::usp>(t, in, sp::cpu{}, comm, to, shared);
    });
    INFO(t.describe());
    INFO("replay: SP_TEST_SEED=" << t.seed);
    CHECK(differing(one, several, true) == "");
    CHECK(one.dsinks == several.dsinks);
    CHECK(several.complaints.empty());
  };
  sample(object_kind::usp, false, true, 0, body);
}

} // namespace test_float
