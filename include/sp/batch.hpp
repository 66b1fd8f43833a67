// Batches: documents, shardings, and everything a trainer derives from them per token.
// No communication happens here; <sp/gather_tokens.hpp> and <sp/relayout.hpp> move tensors between ranks.
#pragma once

#include <sp/layout/tokens.hpp>
#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/nested.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>
