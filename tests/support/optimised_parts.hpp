// Included by clang before all else of a program that is optimised lightly: the kernels, the oracle and what their loops call are
// optimised, all that is read after them is compiled as it would be without optimisation.
#pragma once

#include "support/oracle.hpp"
#include <sp/blockwise.hpp>
#include <sp/cpu.hpp>
#include <sp/reference.hpp>

#pragma clang optimize off
