// Compiled so that products may be fused with sums wherever the processor can: what must not depend on it does not.
// flags: -O2 -march=native -ffp-contract=fast
#include <doctest/doctest.h>

#include <vector>

#include <sp/attention/row_arithmetic.hpp>

#include "support/tensors.hpp"

namespace test_contraction {

TEST_CASE("contraction: delta in double is a sum of rounded products, whatever a compiler may fuse") {
  double const c = 1 + 0x1p-30, square = 1 + 0x1p-29; // c c is square + 2^-60, which rounding takes away
  std::vector<double> const out{square, c}, dout{-1, c};
  std::vector<double> delta{9};
  sp::detail::row_delta<double>(support::tensor<3>(out, {1, 1, 2}), support::tensor<3>(dout, {1, 1, 2}),
                                support::tensor<2>(delta, {1, 1}));
  CHECK(delta[0] == 0);
}

} // namespace test_contraction
