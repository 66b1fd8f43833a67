// Causal depthwise convolution over a sharded stream, with states and gradients: sp::causal_conv1d{group, {.width = 4}}.
// The batches it takes come from <sp/batch.hpp>.
#pragma once

#include <sp/batch.hpp>
#include <sp/linear/causal_conv1d.hpp>
