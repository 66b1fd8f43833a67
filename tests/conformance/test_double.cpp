// Conformance in double: ring, Ulysses and USP over both kernels, plain and with every feature, within 1e-12 of the oracle; in the
// default run each object, each kernel, and the features, but not all of them together.
// The algorithm is proven here; the narrower types only have to round no worse than one rank does.
// optimised: hundreds of trials
#include "check.hpp"

namespace test_double {

using namespace conformance;

namespace {
#ifdef SP_TEST_SANITIZED
constexpr int cases = 3;
#elif defined(SP_TEST_ALL)
constexpr int cases = 13;
#else
constexpr int cases = 7;
#endif
double share() { return seconds() / cases; }
} // namespace

TEST_CASE("ring, cpu kernel [asan]") { conformance_of<double, object_kind::ring, sp::cpu, false>(share()); }
TEST_CASE("ulysses, cpu kernel [asan]") { conformance_of<double, object_kind::ulysses, sp::cpu, false>(share()); }
TEST_CASE("usp, cpu kernel [asan]") { conformance_of<double, object_kind::usp, sp::cpu, false>(share()); }

#ifndef SP_TEST_SANITIZED
TEST_CASE("ring, reference kernel") { conformance_of<double, object_kind::ring, sp::reference, false>(share()); }
TEST_CASE("ring, reference kernel with every feature") {
  conformance_of<double, object_kind::ring, sp::reference, true>(share());
}
TEST_CASE("ring, cpu kernel with every feature") { conformance_of<double, object_kind::ring, sp::cpu, true>(share()); }
TEST_CASE("ulysses around usp, cpu kernel with every feature") {
  conformance_of<double, object_kind::nested, sp::cpu, true>(share());
}
#endif

#ifdef SP_TEST_ALL
#ifndef SP_TEST_SANITIZED
TEST_CASE("ulysses, reference kernel") { conformance_of<double, object_kind::ulysses, sp::reference, false>(share()); }
TEST_CASE("usp, reference kernel") { conformance_of<double, object_kind::usp, sp::reference, false>(share()); }

TEST_CASE("ulysses, cpu kernel with every feature") { conformance_of<double, object_kind::ulysses, sp::cpu, true>(share()); }
TEST_CASE("usp, cpu kernel with every feature") { conformance_of<double, object_kind::usp, sp::cpu, true>(share()); }
TEST_CASE("ulysses, reference kernel with every feature") {
  conformance_of<double, object_kind::ulysses, sp::reference, true>(share());
}
TEST_CASE("usp, reference kernel with every feature") { conformance_of<double, object_kind::usp, sp::reference, true>(share()); }
#endif
#endif

} // namespace test_double
