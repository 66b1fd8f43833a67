// Seeded faults for tests of a trainer: delays, failures, corrupted, truncated and doubled messages.
// A decorator: wrap any communicator or mesh group; the same seed does the same.
#pragma once

#include <sp/collective/decorators/chaos.hpp>
