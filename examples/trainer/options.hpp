// The command line of the trainer.
// Whatever is not asked for has the default of config.hpp, or that of --quick. What does not fit the program is refused.
#pragma once

#include <optional>

#include "config.hpp"

namespace trainer {

/// Fills in `asked`, whose on_device says which program this is. The exit code where the program ends here: 0 after --help, 2 for what cannot be understood; only a process
/// that `speaks` says anything about it.
std::optional<int> read_options(int argc, char** argv, bool speaks, settings& asked);

} // namespace trainer
