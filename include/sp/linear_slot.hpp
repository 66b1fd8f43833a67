// Slots for linear attention and its convolution in a model of your own, with the kernels of this library: sp::auto_wrap fills them, too.
// What finds and fills them is in <sp/auto_wrap.hpp>; a model of these slots alone needs no more than use(ranks).
#pragma once

#include <sp/conv1d.hpp>
#include <sp/linear.hpp>
#include <sp/multimodal/linear_slot.hpp>
