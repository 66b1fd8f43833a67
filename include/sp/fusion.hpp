// Splices, fusion and deepstack, and slots for them: visual features among the tokens of a decoder, with its batch, labels and positions.
// Add a communicator: <sp/threads.hpp>, <sp/mpi.hpp>, or your own. The rows of images come from <sp/vision.hpp>, or from any tower.
#pragma once

#include <sp/batch.hpp>
#include <sp/multimodal/deepstack.hpp>
#include <sp/multimodal/fusion.hpp>
#include <sp/multimodal/fusion_slot.hpp>
#include <sp/multimodal/rotary_positions.hpp>
#include <sp/multimodal/splices/between.hpp>
#include <sp/multimodal/splices/masks.hpp>
#include <sp/multimodal/splices/one_to_one.hpp>
#include <sp/multimodal/splices/placeholder.hpp>
#include <sp/multimodal/splices/prefix.hpp>
