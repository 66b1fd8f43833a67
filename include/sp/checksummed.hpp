// Checksums on every message, for transports that are not trusted: corruption is an error that names the peer, not wrong numbers.
// A decorator: wrap any communicator or mesh group of host memory; every ability of it stays.
#pragma once

#include <sp/collective/decorators/checksummed.hpp>
