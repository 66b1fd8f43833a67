// Multimodal models: images as documents of patches, vision attention, images among the tokens of a decoder, and slots for all of them.
// Add a communicator: <sp/threads.hpp>, <sp/mpi.hpp>, or your own.
#pragma once

#include <sp/auto_wrap.hpp>
#include <sp/fusion.hpp>
#include <sp/vision.hpp>
