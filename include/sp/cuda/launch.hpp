// Starts kernels: launch(stream, kernel, blocks, shared_bytes). With nvcc on the device; elsewhere on what a test puts in its place.
// A kernel that cannot be started, for its size or shape, is refused in a sentence; errors of the runtime become sp::error.
#pragma once

#include <string>
#include <type_traits>

#include <sp/core/error.hpp>
#include <sp/core/index.hpp>
#include <sp/cuda/block.hpp>

#ifdef __CUDACC__
#include <sp/cuda/error.hpp>
#else
struct CUstream_st; // what a cudaStream_t points to
#endif

namespace sp::detail {

inline constexpr char const* launch_name = "cuda_queue.launch";

/// How many blocks of a kernel a multiprocessor shall hold at least: registers are shared out for that. One, unless it says
/// `static constexpr int blocks_per_processor`.
template <class Kernel>
inline constexpr int blocks_per_processor = [] {
  if constexpr (requires { Kernel::blocks_per_processor; })
    return Kernel::blocks_per_processor;
  else
    return 1;
}();

/// Whether a kernel says `static constexpr bool independent_threads = true`: it uses no barrier, no operation of a warp and no shared
/// memory. Means nothing on a device; an emulated one runs such threads as plain calls.
template <class Kernel>
inline constexpr bool independent_threads = [] {
  if constexpr (requires { Kernel::independent_threads; })
    return Kernel::independent_threads;
  else
    return false;
}();

/// What is asked of every kernel.
template <class Kernel>
constexpr void require_kernel() {
  static_assert(std::is_trivially_copyable_v<Kernel>, "sp: a kernel travels to the device as bytes: make it trivially copyable");
  static_assert(sizeof(Kernel) <= 32764, "sp: a kernel has room for 32764 bytes of arguments: hand over a pointer to a table");
  static_assert(Kernel::threads % 32 == 0 && Kernel::threads > 0 && Kernel::threads <= 1024,
                "sp: the threads of a block are a multiple of 32, at most 1024");
}

/// Blocks of one grid, at most; or size_overflow.
inline void require_blocks(index_t blocks) {
  if (blocks < 0 || blocks > 0x7fffffff)
    fail({errc::size_overflow, std::to_string(blocks) + " blocks in one launch, 0 to 2147483647 are possible",
          "Let each block do more of the work", launch_name});
}

#ifdef __CUDACC__

/// The one entry point of all kernels.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads, blocks_per_processor<Kernel>)
    run_kernel(Kernel const __grid_constant__ kernel) {
  device_block b;
  kernel(b);
}

/// Lets run_kernel<Kernel> use all the shared memory that the current device has for one block. At each launch: cudaDeviceReset takes it back.
template <class Kernel>
void allow_shared_memory(index_t bytes) {
  int device = 0, here = 0;
  cuda_check(cudaGetDevice(&device), "cudaGetDevice", launch_name);
  cuda_check(cudaDeviceGetAttribute(&here, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute",
             launch_name);
  cuda_check(cudaFuncSetAttribute(run_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, here), "cudaFuncSetAttribute",
             launch_name);
  if (bytes > here)
    fail({errc::unsupported,
          "a kernel asks for " + std::to_string(bytes) + " bytes of shared memory, device " + std::to_string(device) + " has " +
              std::to_string(here) + " for a block",
          "Choose a configuration of smaller tiles", launch_name});
}

/// Queues `blocks` blocks of a kernel on a stream of the current device, `shared_bytes` of shared memory for each. None: nothing is done.
template <class Kernel>
void launch(cudaStream_t stream, Kernel const& kernel, index_t blocks, index_t shared_bytes) {
  require_kernel<Kernel>();
  require_blocks(blocks);
  if (blocks == 0) return;
  if (shared_bytes > 48 * 1024) allow_shared_memory<Kernel>(shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(Kernel::threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  cuda_check(cudaLaunchKernelEx(&config, run_kernel<Kernel>, kernel), "cudaLaunchKernelEx", launch_name);
}

#else

/// What stands in for a device where the compiler makes no code for one, in tests: emulated_device<void>, which
/// tests/support/emulated_block.hpp defines, has
///
///     launch(stream, kernel, blocks, shared_bytes)
template <class Always>
struct emulated_device;

template <class Kernel>
void launch(CUstream_st* stream, Kernel const& kernel, index_t blocks, index_t shared_bytes) {
  require_kernel<Kernel>();
  require_blocks(blocks);
  using device = emulated_device<std::conditional_t<true, void, Kernel>>; // looked up when a kernel is launched
  constexpr bool there = requires { sizeof(device); };
  static_assert(there, "sp: work for a device needs nvcc: compile this source as CUDA");
  if constexpr (there)
    if (blocks > 0) device::launch(stream, kernel, blocks, shared_bytes);
}

#endif

} // namespace sp::detail
