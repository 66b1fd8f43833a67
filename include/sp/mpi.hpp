// Public entry: sp::mpi, ranks that are processes of an MPI job, sp::mpi_shared for one node, sp::mpi_device for devices (target sp::mpi).
// The caller initialises and finalises MPI; sp::mpi world{MPI_COMM_WORLD} borrows a communicator of the caller.
#pragma once

#include <sp/collective/mpi/device.hpp>
#include <sp/collective/mpi/mpi.hpp>
#include <sp/collective/mpi/shared.hpp>
