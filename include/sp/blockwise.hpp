// sp::blockwise: a backend from your own attention kernel over one block.
// The contract of the kernel is block_call and block_grad in backend/concepts.hpp.
#pragma once

#include <sp/backend/blockwise.hpp>
