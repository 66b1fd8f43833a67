// Pictures of the report: what the model was shown and wrote, and which rank owns which patch and which row.
// Drawn from the batches the ranks themselves use.
#pragma once

#include <string>

#include "multimodal/report/report.hpp"

namespace multimodal {

/// Questions on held-back pictures with the pictures in them, and what one rank answered.
std::string draw_answers(report const& r, std::size_t most);

/// Colour and name of every rank of a plan.
std::string draw_rank_colours(plan const& p);

/// The pictures of the first texts of a step, each patch in the colour of its owner; and the decoder's rows of the whole step as a band, in
/// which visual rows are high and text is low.
std::string draw_owners(report const& r, plan const& p);

} // namespace multimodal
