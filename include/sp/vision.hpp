// Vision towers: images as documents of patches, cut in units of a merge, and attention over patches that are sharded, with prefix
// tokens that every rank holds. Rows are found without communication, and move as the attention object inside moves them.
#pragma once

#include <sp/batch.hpp>
#include <sp/layout/merged.hpp>
#include <sp/multimodal/images.hpp>
#include <sp/multimodal/vit_attention.hpp>
#include <sp/sharding/grained.hpp>
