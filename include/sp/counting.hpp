// Counts what a communicator sends: messages and bytes per primitive, into a ledger of the caller's.
// A decorator: wrap any communicator or mesh group; every ability of it stays.
#pragma once

#include <sp/collective/decorators/counting.hpp>
