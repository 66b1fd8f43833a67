// vit_attention over random images, prefixes, meshes and schedules: out and gradients against the float64 oracle of {prefix, patches},
// prefix rows with the same bits on every rank, gradients of prefix tokens by both contracts, in exactly the memory that it asks for.
#include <array>
#include <set>

#include <sp/reference.hpp>

#include "vit_trial.hpp"

namespace test_vit_attention {
namespace {

using namespace vit;

constexpr std::uint64_t first = 88, most = 80; ///< trials that have all that is counted here

TEST_CASE("vit_attention: what is drawn below has every schedule, number of ranks, prefix and contract") {
  std::set<std::array<int, 3>> met;
  for (std::uint64_t seed = first; seed < first + most; ++seed) {
    trial const t = draw(seed, strategy::any, true);
    if (t.documents() == 0) continue; // nothing moves
    met.insert({0, t.ranks(), int(t.prefix)});
    if (t.ranks() > 1 && t.prefix > 0) met.insert({1, t.same, t.accumulate});
    if (t.ring > 1) met.insert({2, int(t.how), t.prefix > 0 ? 1 + t.same : 0});
    if (t.ring > 1 && t.ulysses * t.outer > 1) met.insert({3, t.ring_is_fast, t.padded});
    if (t.ranks() > t.patches.tokens()) met.insert({4, t.prefix > 0, t.same});
  }
  auto all = [&](int kind) { return std::count_if(met.begin(), met.end(), [&](auto const& m) { return m[0] == kind; }); };
  CHECK(all(0) == 8 * 3); // ranks x prefix
  CHECK(all(1) == 2 * 2); // contract x accumulate
  CHECK(all(2) == 4 * 3); // schedule x (no prefix, shares, same)
  CHECK(all(3) == 2 * 2); // meshes both ways x padding
  CHECK(all(4) >= 3);     // ranks without patches
}

TEST_CASE("vit_attention: every strategy and schedule, in double [asan]") {
  for (std::uint64_t seed = first; seed < first + trials(most); ++seed) {
    trial const t = draw(seed, strategy::any, true);
    conform<double>(t, 1e-12, [](trial const& x, comm const& c) { return nested(x, c, sp::reference{sp::dropout{x.dropout}}); });
  }
}

} // namespace
} // namespace test_vit_attention
