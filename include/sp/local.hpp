// Public entry: sp::local<Queue>::run(ranks, body) runs ranks as threads of this process, each with a queue of its own.
// The body gets an sp::local<Queue> communicator; the first failure of any rank is rethrown by run().
#pragma once

#include <sp/collective/threads/local.hpp>
