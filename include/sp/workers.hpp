// Public entry: sp::workers, several threads for one rank, and sp::workers_ref{pool} for threads of the caller's own.
// sp::on_queue{workers, sp::cpu{}} is a kernel that computes on them; results are the same bits for any number of threads.
#pragma once

#include <sp/backend/on_queue.hpp>
#include <sp/core/workers/workers.hpp>
#include <sp/core/workers/workers_ref.hpp>
