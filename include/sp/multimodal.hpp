// Multimodal models: images as documents of patches, vision attention, and images among the tokens of a decoder.
// Add a communicator: <sp/threads.hpp>, <sp/mpi.hpp>, or your own.
#pragma once

#include <sp/fusion.hpp>
#include <sp/vision.hpp>
