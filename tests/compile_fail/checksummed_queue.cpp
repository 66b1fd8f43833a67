// Checksums of messages that are work of a queue, which the host cannot read when the call returns.
// EXPECT: sp::checksummed reads messages on the CPU when an operation has returned: it cannot wrap a communicator whose operations are work
#include <sp/checksummed.hpp>

struct ranks : sp::solo {
#ifdef SP_FAIL
  static constexpr bool own_queue = true;
  static int queue() { return 0; }
#endif
};

int main() { return sp::checksummed(ranks()).size() - 1; }
