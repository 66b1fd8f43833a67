// vit_attention by the tiled kernel, in narrow types: gradients of prefix tokens are summed in the type of sums and rounded once.
// with all: other tests have the same calls in double, and the same kernels in every type
#include <sp/cpu.hpp>

#include "vit_trial.hpp"

namespace test_vit_types {
namespace {

using namespace vit;

template <class T>
void typed_trials(std::uint64_t first, double bound) {
  int done = 0;
  for (std::uint64_t seed = first; done < 40; ++seed) {
    trial const drawn = draw(seed, strategy::usp, false);
    if (drawn.patches.tokens() < 8) continue; // gradients cancel, and what is left is rounding: one rank's are off by as much
    conform<T>(drawn, bound, [](trial const& t, comm const& c) { return usp(t, c, sp::cpu{}); });
    ++done;
  }
}

TEST_CASE("vit_attention: in float") { typed_trials<float>(201, 2e-6); }
TEST_CASE("vit_attention: in bf16") { typed_trials<sp::bf16>(301, 1.5e-2); }
TEST_CASE("vit_attention: in double, by tiles") { typed_trials<double>(401, 1e-12); }

} // namespace
} // namespace test_vit_types
