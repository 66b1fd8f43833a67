// Public entry: sp::cuda_queue, sp::device_pool and sp::cuda_local, ranks that are threads over one or several CUDA devices (CMake target
// sp::cuda). Needs CUDA's headers; what hands work to a device is compiled by nvcc, and any other compiler says so in one sentence.
#pragma once

#include <sp/collective/threads/local.hpp>
#include <sp/cuda/pool.hpp>
#include <sp/cuda/queue.hpp>

namespace sp {

/// Ranks that are threads of this process, each with a cuda_queue: cuda_local::run(ranks, body, {}, [&](int rank) { return sp::cuda_queue(
/// stream_of(rank), device_of(rank)); }). Several may share a device. They read and write each other's memory, so Ulysses is a strided
/// copy and a ring that pulls one pass: run() gives their devices access to each other's memory of cudaMalloc, or refuses (unsupported). On
/// one device, set CUDA_DEVICE_MAX_CONNECTIONS=32 before the first call of the runtime: streams
/// that share a connection wait for each other.
using cuda_local = local<cuda_queue>;

} // namespace sp
