// Public entry: sp::workers, several threads for one rank, and sp::workers_ref{pool} for threads of the caller's own.
// Results are the same bits for any number of threads, those of the caller or others.
#pragma once

#include <sp/core/workers/workers.hpp>
#include <sp/core/workers/workers_ref.hpp>
