// Public entry: sp::threads::run(ranks, body) runs ranks as threads of this process, with nothing to install.
// The body gets an sp::threads communicator; the first failure of any rank is rethrown by run().
#pragma once

#include <sp/collective/threads/threads.hpp>
