// What most test programs read, compiled once for all that are compiled alike: see sp_reads_common_headers in doctest.cmake.
// Sources include what they use themselves, and are compiled without this by tests/run.sh --all: it changes nothing but time.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <sp/batch.hpp>
#include <sp/counting.hpp>
#include <sp/cpu.hpp>
#include <sp/gather_loss.hpp>
#include <sp/mesh.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

#include "support/failure.hpp"
