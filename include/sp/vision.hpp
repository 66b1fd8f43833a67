// Vision towers: attention over patches that are sharded, with prefix tokens that every rank holds.
// Everything but the rows of prefix tokens moves as the attention object inside moves it.
#pragma once

#include <sp/batch.hpp>
#include <sp/multimodal/vit_attention.hpp>
