// Public entry: sp::mpi, ranks that are processes of an MPI job, and sp::mpi_shared for those of one node (CMake target sp::mpi).
// The caller initialises and finalises MPI; sp::mpi world{MPI_COMM_WORLD} borrows a communicator of the caller.
#pragma once

#include <sp/collective/mpi/mpi.hpp>
#include <sp/collective/mpi/shared.hpp>
