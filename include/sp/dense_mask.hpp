// sp::dense_mask: a dense boolean mask as disjoint slices, or an error if it would need too many.
// For masks that come from elsewhere; makers such as sp::causal() need no dense mask.
#pragma once

#include <sp/geometry/dense_mask.hpp>
