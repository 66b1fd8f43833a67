// One translation unit that includes <sp/mpi.hpp> and nothing else of sp.
// Compiles when sp::mpi brings what that header needs.
#include <sp/mpi.hpp>

static_assert(sp::communicator<sp::mpi>);
