// Losses over a sharded sequence: the same {loss, num_tokens} on every rank, and a gradient scaled exactly once.
// Add a communicator: <sp/threads.hpp>, <sp/mpi.hpp>, or your own.
#pragma once

#include <sp/batch.hpp>
#include <sp/loss/gather_loss.hpp>
