// Conformance in double: ring, Ulysses and USP over both kernels, plain and with every feature, within 1e-12 of the oracle.
// The algorithm is proven here; the narrower types only have to round no worse than one rank does.
#include "check.hpp"

using namespace conformance;

namespace {
constexpr int cases = 12;
}

TEST_CASE("ring, reference kernel [asan][tsan]") { conformance_of<double, object_kind::ring, sp::reference, false>(seconds() / cases); }
TEST_CASE("ulysses, reference kernel [asan][tsan]") { conformance_of<double, object_kind::ulysses, sp::reference, false>(seconds() / cases); }
TEST_CASE("usp, reference kernel [asan]") { conformance_of<double, object_kind::usp, sp::reference, false>(seconds() / cases); }
TEST_CASE("ring, cpu kernel [asan][tsan]") { conformance_of<double, object_kind::ring, sp::cpu, false>(seconds() / cases); }
TEST_CASE("ulysses, cpu kernel [asan]") { conformance_of<double, object_kind::ulysses, sp::cpu, false>(seconds() / cases); }
TEST_CASE("usp, cpu kernel [asan][tsan]") { conformance_of<double, object_kind::usp, sp::cpu, false>(seconds() / cases); }

#ifndef SP_TEST_SANITIZED
TEST_CASE("ring, reference kernel with every feature") { conformance_of<double, object_kind::ring, sp::reference, true>(seconds() / cases); }
TEST_CASE("ulysses, reference kernel with every feature") { conformance_of<double, object_kind::ulysses, sp::reference, true>(seconds() / cases); }
TEST_CASE("usp, reference kernel with every feature") { conformance_of<double, object_kind::usp, sp::reference, true>(seconds() / cases); }
TEST_CASE("ring, cpu kernel with every feature") { conformance_of<double, object_kind::ring, sp::cpu, true>(seconds() / cases); }
TEST_CASE("ulysses, cpu kernel with every feature") { conformance_of<double, object_kind::ulysses, sp::cpu, true>(seconds() / cases); }
TEST_CASE("usp, cpu kernel with every feature") { conformance_of<double, object_kind::usp, sp::cpu, true>(seconds() / cases); }
#endif
