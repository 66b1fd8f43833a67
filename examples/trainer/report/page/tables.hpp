// The two tables of the page.
// One row for each strategy and number type; a row of headings says for each type how many steps it trained, and why.
#pragma once

#include <string>

#include "report/report.hpp"

namespace trainer {

/// Losses and gradients against one rank.
std::string table_of_differences(report const& r);

/// Speed, bytes, memory and balance of attention.
std::string table_of_costs(report const& r);

} // namespace trainer
