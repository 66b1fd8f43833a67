// A differentiable gather: any (tokens, ...) tensor of a sequence group in stream order on every rank.
// The batches it takes come from <sp/batch.hpp>.
#pragma once

#include <sp/batch.hpp>
#include <sp/loss/gather_tokens.hpp>
