// USP, Ulysses inside a ring: ulysses_attention{mesh.ulysses(c), ring_attention{mesh.ring(c), kernel}} on a nested sharding.
// Nothing but the parts together: the hybrid is nesting, not a third implementation.
#pragma once

#include <sp/mesh.hpp>
#include <sp/ring.hpp>
#include <sp/ulysses.hpp>
