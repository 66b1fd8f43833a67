// Routes: rows that move between ranks, found once per step, and exchanges of any tensors along them, stored or summed where they land.
// What relayout, gather_tokens and Ulysses are made of; the batches whose layouts it takes come from <sp/batch.hpp>.
#pragma once

#include <sp/batch.hpp>
#include <sp/layout/route_exchange.hpp>
