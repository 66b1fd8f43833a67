// Multimodal streams: rotary positions of text with pictures and videos in it.
// Everything follows from a batch (sp/batch.hpp) without communication.
#pragma once

#include <sp/batch.hpp>
#include <sp/multimodal/rotary_positions.hpp>
