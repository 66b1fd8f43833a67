// What runs inside Ulysses and keeps no checked geometry in its prepared batch is told which member to add.
// Alone in its file: the sentences about members that take a prepared batch follow from this one.
// EXPECT: type `prepared` with a default; add it, with a member `sp::detail::checked_geometry checked`
#include "../attention/near_misses.hpp"

using namespace near_miss;
static_assert(sizeof(sp::ulysses_attention<sp::solo, complete>) > 0);
#ifdef SP_FAIL
static_assert(sizeof(sp::ulysses_attention<sp::solo, unchecked_prepared>) > 0);
#endif
