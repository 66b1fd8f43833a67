// Every operation of a block as nvcc compiles it, for every type it takes; the CTest entry cuda.compile, never run.
// The kernel is launched with more shared memory than a device gives unasked, so that all of launch() is there too.
#include <sp/cuda/launch.hpp>

namespace {

struct every_operation {
  float* x;
  double* y;
  int* counter;
  static constexpr int threads = 128;
  static constexpr int blocks_per_processor = 4;

  template <class Block>
  SP_DEVICE void operator()(Block& b) const {
    auto* const tile = b.template shared<sp::bf16>(1024);
    auto* const row = b.template shared<std::byte>(16 * b.thread());
    b.copy_async(row, x + 4 * b.thread(), b.index() + 1 < b.blocks());
    b.copy_async_commit();
    b.copy_async(tile, x, true);
    b.copy_async_commit();
    b.template copy_async_wait<1>();
    b.template copy_async_wait<0>();
    b.barrier();
    unsigned left[4], right[4];
    b.load_matrix(left, row);
    b.load_matrix_transposed(right, row);
    unsigned const two[2] = {right[0], right[1]};
    float sums[4] = {};
    b.template multiply_add<sp::bf16>(sums, left, two);
    b.template multiply_add<sp::fp16>(sums, left, two);
    b.warp_barrier();
    float most = b.shuffle(sums[0], 3);
    most += b.shuffle_xor(sums[1], 16) + b.shuffle_down(sums[2], 1);
    double const wide = b.shuffle(static_cast<double>(sums[3]), 1) + b.shuffle_xor(1.0, 1) + b.shuffle_down(2.0, 2);
    int const votes = b.shuffle(b.lane(), 0) + (b.any(most > 0) ? 1 : 0) + (b.all(most > 1) ? 2 : 0) +
                      static_cast<int>(b.ballot(b.warp() == 0));
    most = b.exp2(most) * b.log2(most);
    int const ticket = b.add_to(counter, votes) % b.threads();
    float const before = b.add_to(x + ticket, most);
    y[ticket] = b.add_to(y, wide) + static_cast<double>(before);
  }
};

} // namespace

void launch_every_operation(cudaStream_t stream, float* x, double* y, int* counter) {
  sp::detail::launch(stream, every_operation{x, y, counter}, 100, 96 * 1024);
}
