// Multimodal models: images as documents of patches, and rotary positions of text with pictures and videos in it.
// Everything follows from grids and batches (sp/batch.hpp) without communication.
#pragma once

#include <sp/batch.hpp>
#include <sp/multimodal/rotary_positions.hpp>
#include <sp/vision.hpp>
