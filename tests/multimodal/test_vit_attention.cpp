// vit_attention over random images, prefixes, meshes and schedules: out and gradients against the float64 oracle of {prefix, patches},
// prefix rows with the same bits on every rank, gradients of prefix tokens by both contracts, in exactly the memory that it asks for.
#include <sp/reference.hpp>

#include "vit_trial.hpp"

namespace test_vit_attention {
namespace {

using namespace vit;

TEST_CASE("vit_attention: every strategy and schedule, in double [asan]") {
  for (std::uint64_t seed = 1; seed <= trials(80); ++seed) {
    trial const t = draw(seed, strategy::any, true);
    conform<double>(t, 1e-12, [](trial const& x, comm const& c) { return nested(x, c, sp::reference{sp::dropout{x.dropout}}); });
  }
}

} // namespace
} // namespace test_vit_attention
