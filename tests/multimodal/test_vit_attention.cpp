// vit_attention over random images, prefixes, meshes and schedules: out and gradients against the float64 oracle of {prefix, patches},
// prefix rows with the same bits on every rank, gradients of prefix tokens by both contracts, in exactly the memory that it asks for.
#include <sp/reference.hpp>

#include "vit_trial.hpp"

namespace test_vit_attention {
namespace {

using namespace vit;

TEST_CASE("vit_attention: every strategy and schedule, in double") {
  for (std::uint64_t seed = 1; seed <= 80; ++seed) {
    trial const t = draw(seed, strategy::any, true);
    conform<double>(t, 1e-12, [](trial const& x, comm const& c) { return nested(x, c, sp::reference{sp::dropout{x.dropout}}); });
  }
}

TEST_CASE("vit_attention: upstream gradients of prefix tokens in bf16 are summed in float and rounded once") {
  for (std::uint64_t seed = 501; seed <= 512; ++seed)
    conform<sp::bf16>(draw(seed, strategy::any, false), 1.5e-2,
                      [](trial const& x, comm const& c) { return nested(x, c, sp::reference{sp::dropout{0}}); });
}

} // namespace
} // namespace test_vit_attention
