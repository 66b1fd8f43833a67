// Batches: documents, shardings, and everything a trainer derives from them per token.
// No communication happens here except in relayout and gather, which take a communicator.
#pragma once

#include <sp/layout/tokens.hpp>
#include <sp/loss/gather_tokens.hpp>
#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/nested.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>
