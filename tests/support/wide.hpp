// Whether a test runs at its full width, as it does with tests/run.sh --all, or at one that shows each thing once.
// The environment says so, so that both widths are the same program.
#pragma once

#include <cstdlib>

namespace support {

inline bool wide() { return std::getenv("SP_TEST_WIDE") != nullptr; }

} // namespace support
