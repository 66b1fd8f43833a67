// The kernels of cuda_flash as nvcc compiles them for a device, one configuration at a time: tests/tools/resources.py reads what they take.
// SP_TEST_TYPE, SP_TEST_DIM, SP_TEST_FEATURES (after a comma) name the configuration. Never run.
#include <sp/cuda/launch.hpp>
#include <sp/cuda_flash.hpp>

#ifndef SP_TEST_TYPE
#define SP_TEST_TYPE bf16
#endif
#ifndef SP_TEST_DIM
#define SP_TEST_DIM 128
#endif
#ifdef SP_TEST_FEATURES
#define SP_TEST_ALL_FEATURES , sp::softcap, sp::alibi, sp::dropout
#else
#define SP_TEST_ALL_FEATURES
#endif

namespace sp::detail {

constexpr flash_shape shape = flash_tuning::shape;
using forward = flash_forward<SP_TEST_TYPE, SP_TEST_DIM, shape SP_TEST_ALL_FEATURES>;
using queries = flash_backward_queries<SP_TEST_TYPE, SP_TEST_DIM, shape SP_TEST_ALL_FEATURES>;
using keys = flash_backward_keys<SP_TEST_TYPE, SP_TEST_DIM, false, shape SP_TEST_ALL_FEATURES>;
using keys_and_queries = flash_backward_keys<SP_TEST_TYPE, SP_TEST_DIM, true, shape SP_TEST_ALL_FEATURES>;

template __global__ void run_kernel(forward const __grid_constant__);
template __global__ void run_kernel(queries const __grid_constant__);
template __global__ void run_kernel(keys const __grid_constant__);
template __global__ void run_kernel(keys_and_queries const __grid_constant__);

/// As many blocks as are planned for a multiprocessor find their shared memory there: sm_80 has 164 KiB, of which each block takes one more.
template <class Kernel>
constexpr bool fits = (Kernel::shared_bytes + 1024) * blocks_per_processor<Kernel> <= 164 * 1024;
static_assert(fits<forward> && fits<queries> && fits<keys> && fits<keys_and_queries>);
static_assert(sizeof(forward) <= 4096 && sizeof(keys) <= 4096, "arguments of 4 KiB need no newer driver");

} // namespace sp::detail
