// A second translation unit of the same program, with the amalgamated header as well.
// Links only if nothing in the header is defined twice.
#include "sp.hpp"

static_assert(sp::version == SP_VERSION && SP_VERSION_MAJOR >= 0);

sp::index_t tokens_of_rank_0() { return sp::batch{sp::packed{0, 5, 12}, sp::striped{}, 0, 3}.tokens(); }
