// Included by clang before all else of the trainer when it is built among the tests: the kernels and the products of matrices are
// optimised, all that is read after them is compiled as it would be without optimisation.
#pragma once

#include <Eigen/Core>

#include <sp/blockwise.hpp>
#include <sp/cpu.hpp>
#include <sp/linear/kernels.hpp>

#pragma clang optimize off
