// cuda_flash on an emulated block against the oracle in float64, forward and backward: no worse than twice a plain computation that rounds
// probabilities and gradients of scores to the element type as well, and bit for bit the same however rows and keys are spread.
// needs: context
#include <doctest/doctest.h>

#include <sp/cuda_flash.hpp>

#include "backend/by_parts.hpp"
#include "cuda/rounded_reference.hpp"
#include "support/emulated_queue.hpp"
#include "support/wide.hpp"

namespace test_cuda_flash {
namespace {

using namespace backend_tests;

/// Tiles so small that a few rows are several.
struct tiny {
  static constexpr sp::detail::flash_shape shape{.forward_rows = 32, .backward_rows = 16, .keys = 16, .slabs = 2};
  using dims = sp::detail::head_dims<16, 32>;
};
template <class... Features>
using flash = support::emulated_backend<sp::basic_cuda_flash<tiny, Features...>>;

setting small() {
  setting s{.docs = sp::packed{0, 5, 5, 6, 51}, .q_heads = 2, .kv_heads = 1, .dim = 16, .value_dim = 8};
  return s;
}

/// Errors of mine, and of a computation of the same precision.
template <class T, class Backend, class Plain>
void check(Backend const& mine, Plain const& plain, setting const& set, cutting const& cut, scene<T> const& s) {
  auto const expected = s.expected();
  auto const e = s.against(s.run(mine, cut), expected), its = s.against(s.run(plain, s.whole()), expected);
  CAPTURE(set.seed);
  CAPTURE(e);
  CAPTURE(its);
  for (std::size_t i = 0; i < e.size(); ++i) {
    CHECK(e[i] <= 2 * its[i] + 2e-6);
    CHECK(e[i] <= 0.02);
  }
}

} // namespace

TEST_CASE("cuda_flash: causal documents, in one piece [asan]") {
  setting const set = small();
  scene<sp::bf16> s(set);
  check<sp::bf16>(flash<>{}, rounded_reference{}, set, s.whole(), s);
}

} // namespace test_cuda_flash
