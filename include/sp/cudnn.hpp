// Public entry: sp::cudnn, attention on CUDA devices by cuDNN (CMake target sp::cudnn). Needs CUDA's headers; cuDNN and cudnn-frontend are
// needed by the one source of a program that defines SP_CUDNN_IMPLEMENTATION before it includes this header.
#pragma once

#include <sp/backend/cudnn/engine.hpp>
#include <sp/backend/cudnn/kernel.hpp>
#include <sp/cuda/queue.hpp>

#include <sp/backend/cudnn/frontend.hpp>

namespace sp {

/// cuDNN's flash attention as a backend of rings, Ulysses and both, for bf16 and fp16 tensors of device_memory on a cuda_queue:
///
///     auto const engine = sp::make_cudnn_engine();               // one per process
///     sp::ring_attention attention{ranks, sp::cudnn{*engine}, {.mask = sp::causal()}};
///
/// What it computes, and what it refuses, is said at basic_cudnn.
using cudnn = basic_cudnn<device_memory, cudnn_engine>;

static_assert(attention_backend<cudnn, bf16> && attention_backend<cudnn, fp16>);
static_assert(takes_queue<cudnn, bf16, cuda_queue>);

} // namespace sp
