// Relayout: rows of tensors move from one layout to another by one ragged exchange, and gradients move back and are summed.
// The batches whose layouts it takes come from <sp/batch.hpp>.
#pragma once

#include <sp/batch.hpp>
#include <sp/layout/relayout.hpp>
