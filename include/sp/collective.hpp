// The collectives as free functions over any communicator: exchange, gathers, sums, broadcast, barrier; on a queue they return tokens.
// sp/gather_loss.hpp brings them too: the sum of parameter gradients that follows a loss is sp::all_reduce.
#pragma once

#include <sp/collective/reductions.hpp>
