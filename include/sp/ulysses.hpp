// Ulysses attention over any communicator and kernel: heads <-> tokens by one ragged all-to-all, forward and backward.
// Add a communicator and a kernel: <sp/threads.hpp>, <sp/cpu.hpp>, or your own.
#pragma once

#include <sp/attention/kernel_results.hpp>
#include <sp/attention/ulysses.hpp>
#include <sp/batch.hpp>
