// Ring attention over any communicator and kernel: schedules rotate, cast and pull, forward and backward.
// Add a communicator and a kernel: <sp/threads.hpp>, <sp/cpu.hpp>, or your own.
#pragma once

#include <sp/attention/kernel_results.hpp>
#include <sp/attention/ring.hpp>
#include <sp/batch.hpp>
