// Conformance in bf16 and fp16: at most twice the error of the one-rank result of the same precision, and an RMSE of at most 0.01.
// Every object over the cpu kernel, in the default run each in one of the types; with --all the reference kernel joins under ring.
// optimised: hundreds of trials
#include "check.hpp"

namespace test_half {

using namespace conformance;

namespace {
#ifdef SP_TEST_ALL
constexpr int cases = 7;
#else
constexpr int cases = 3;
#endif
} // namespace

TEST_CASE("bf16 ring, cpu kernel") { conformance_of<sp::bf16, object_kind::ring, sp::cpu, false>(seconds() / cases); }
TEST_CASE("bf16 usp, cpu kernel") { conformance_of<sp::bf16, object_kind::usp, sp::cpu, false>(seconds() / cases); }
TEST_CASE("fp16 ulysses, cpu kernel") { conformance_of<sp::fp16, object_kind::ulysses, sp::cpu, false>(seconds() / cases); }
#ifdef SP_TEST_ALL
TEST_CASE("bf16 ulysses, cpu kernel") { conformance_of<sp::bf16, object_kind::ulysses, sp::cpu, false>(seconds() / cases); }
TEST_CASE("fp16 ring, cpu kernel") { conformance_of<sp::fp16, object_kind::ring, sp::cpu, false>(seconds() / cases); }
TEST_CASE("fp16 usp, cpu kernel") { conformance_of<sp::fp16, object_kind::usp, sp::cpu, false>(seconds() / cases); }
TEST_CASE("bf16 ring, reference kernel") { conformance_of<sp::bf16, object_kind::ring, sp::reference, false>(seconds() / cases); }
#endif

} // namespace test_half
