// Entry point: sp::reference, the scalar attention backend, with its features.
// For tests and for reading; sp::cpu gives the same numbers to rounding, fast.
#pragma once

#include <sp/backend/reference.hpp>
