// Public entry: sp::nccl, ranks that are devices of a borrowed ncclComm_t, and sp::native_sums (CMake target sp::nccl).
// Declared for any compiler; what instantiates objects over a device needs nvcc. Needs <nccl.h> and the CUDA runtime's headers.
#pragma once

#include <sp/collective/nccl/native_sums.hpp>
