// The kernels of cuda_flash as nvcc compiles them for a device, one configuration at a time: tests/tools/resources.py reads what they take.
// SP_TEST_TYPE, SP_TEST_DIM, SP_TEST_FEATURES name the configuration. Never run.
#include <sp/cuda/launch.hpp>
#include <sp/cuda_flash.hpp>

#ifndef SP_TEST_TYPE
#define SP_TEST_TYPE bf16
#endif
#ifndef SP_TEST_DIM
#define SP_TEST_DIM 128
#endif
#ifndef SP_TEST_FEATURES
#define SP_TEST_FEATURES none
#endif
#define SP_TEST_none
#define SP_TEST_softcap , sp::softcap
#define SP_TEST_alibi , sp::alibi
#define SP_TEST_dropout , sp::dropout
#define SP_TEST_all SP_TEST_softcap SP_TEST_alibi SP_TEST_dropout
#define SP_TEST_JOINED(a, b) a##b
#define SP_TEST_LIST_OF(features) SP_TEST_JOINED(SP_TEST_, features)
#define SP_TEST_LIST SP_TEST_LIST_OF(SP_TEST_FEATURES)

namespace sp::detail {

constexpr flash_shape shape = flash_tuning::shape;
using forward = flash_forward<SP_TEST_TYPE, SP_TEST_DIM, shape SP_TEST_LIST>;
using queries = flash_backward_queries<SP_TEST_TYPE, SP_TEST_DIM, shape SP_TEST_LIST>;
using keys = flash_backward_keys<SP_TEST_TYPE, SP_TEST_DIM, false, shape SP_TEST_LIST>;
using keys_and_queries = flash_backward_keys<SP_TEST_TYPE, SP_TEST_DIM, true, shape SP_TEST_LIST>;

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
