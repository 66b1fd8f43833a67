// The command line of the multimodal trainer.
// Whatever is not asked for has the default of config.hpp, or that of --quick. What does not fit the program is refused.
#pragma once

#include <optional>

#include "multimodal/config.hpp"

namespace multimodal {

/// Fills in `asked`. The exit code where the program ends here: 0 after --help, 2 for what cannot be understood.
std::optional<int> read_options(int argc, char** argv, settings& asked);

} // namespace multimodal
