// Linear attention over a sharded stream, with the kernels of this library: sp::linear_attention{group, sp::gated_delta{}}.
// The batches it takes come from <sp/batch.hpp>.
#pragma once

#include <sp/batch.hpp>
#include <sp/linear/kernels.hpp>
#include <sp/linear/linear_attention.hpp>
