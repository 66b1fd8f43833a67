// Access of one device to the memory of another, which the runtime gives nobody who does not ask for it.
// For memory of cudaMalloc; pools have their own: see device_pool.
#pragma once

#include <string>

#include <sp/cuda/capture.hpp>

namespace sp::detail {

/// Lets work of a device read and write what cudaMalloc gives on another; it may have been asked for before. Or unsupported, in the name of
/// the rank that works on the device.
inline void enable_peer(int device, int rank, int other, int peer) {
  constexpr char const* primitive = "cuda_queue.reach";
  relaxed_capture const relaxed;
  on_device const here(device, primitive);
  int possible = 0;
  cuda_check(cudaDeviceCanAccessPeer(&possible, device, other), "cudaDeviceCanAccessPeer", primitive);
  if (!possible)
    fail({.code = errc::unsupported,
          .problem = "rank " + std::to_string(rank) + " works on device " + std::to_string(device) +
                     ", which cannot reach the memory of device " + std::to_string(other) + ", where rank " +
                     std::to_string(peer) + " works",
          .remedy = "Choose devices that have peer access (nvidia-smi topo -p2p rw shows them), or ranks of sp::nccl",
          .primitive = primitive,
          .rank = rank,
          .peer = peer});
  cudaError_t const enabled = cudaDeviceEnablePeerAccess(other, 0);
  if (enabled == cudaErrorPeerAccessAlreadyEnabled) return ignored(enabled);
  cuda_check(enabled, "cudaDeviceEnablePeerAccess", primitive);
}

} // namespace sp::detail
