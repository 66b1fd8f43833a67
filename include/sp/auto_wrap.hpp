// Slots for attention in a model of your own, what is found in it, and one call that puts sequence-parallel attention into every slot.
// Add a communicator and a kernel: <sp/threads.hpp>, <sp/cpu.hpp>, or your own.
#pragma once

#include <sp/batch.hpp>
#include <sp/multimodal/auto_wrap.hpp>
