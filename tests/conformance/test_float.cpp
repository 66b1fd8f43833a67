// Conformance in float: no worse than twice the error of the same kernel on one rank, and four units in the last place.
// Every object, both kernels; features are compiled into the cpu kernel, the others are proven in double.
// optimised: hundreds of trials
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

} // namespace test_float
