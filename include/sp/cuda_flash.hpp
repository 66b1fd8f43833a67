// Entry point: sp::cuda_flash, attention on the tensor cores of a device, with its features.
// g++ compiles what names it; what calls it on a device is compiled by nvcc.
#pragma once

#include <sp/backend/cuda/flash.hpp>
