// The communicator `sp::threads`: ranks are threads of this process, on host memory, and do their work themselves.
// A failure of one rank ends the waits of all within milliseconds; run() joins every thread and rethrows the first cause.
#pragma once

#include <sp/collective/threads/local.hpp>

namespace sp {

/// A rank of a group of threads. Operations are done when they return: a wait on a token when each peer has entered the same exchange.
using threads = local<inline_queue>;

static_assert(communicator<threads> && has_row_lists<threads> && has_barrier<threads> && splittable<threads> &&
              peer_memory<threads> && abortable<threads>);

} // namespace sp
