// Kernels over an emulated block.
// Every operation gives what is said of it, and every misuse is noticed.
// needs: context
#include <doctest/doctest.h>

#include <vector>

#include "support/emulated_block.hpp"

namespace test_emulated_block {

struct sum_rows {
  float const* x;
  float* y;
  int n;
  static constexpr int threads = 128;
  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    float* const s = b.template shared<float>(0);
    float sum = 0;
    for (int i = b.thread(); i < n; i += b.threads()) sum += x[b.index() * n + i];
    for (int by = 16; by > 0; by /= 2) sum += b.shuffle_down(sum, by);
    if (b.lane() == 0) s[b.warp()] = sum;
    b.barrier();
    if (b.thread() == 0) y[b.index()] = s[0] + s[1] + s[2] + s[3];
  }
};

TEST_CASE("emulated block: sums of rows [asan]") {
  std::vector<float> x(5000, 1.0F), y(5);
  for (std::uint64_t seed = 1; seed < 4; ++seed) {
    support::run_grid(sum_rows{x.data(), y.data(), 1000}, 5, 16, {.seed = seed});
    for (float s : y) CHECK(s == 1000.0F);
  }
}

} // namespace test_emulated_block
