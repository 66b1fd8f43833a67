// The job that mpirun started, by plain MPI: which process this is, groups of the first n, waiting without keeping a core busy.
// All processes make the same calls in the same order; nothing here uses the library under test.
#pragma once

#include <chrono>
#include <thread>
#include <vector>

#include <sp/mpi.hpp> // <mpi.h>, without its C++ classes

namespace mpi_tests {

inline int process() {
  int r = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &r);
  return r;
}
inline int processes() {
  int n = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &n);
  return n;
}

/// MPI_Wait that leaves the cores to the processes that compute.
inline void settle(MPI_Request request) {
  for (int done = 0; MPI_Test(&request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && !done;)
    std::this_thread::sleep_for(std::chrono::microseconds(100));
}

/// The first n processes; null for the others. Every process calls it with the same n.
inline MPI_Comm first(int n) {
  static std::vector<MPI_Comm> made(std::size_t(processes()) + 1, MPI_COMM_NULL);
  static std::vector<bool> known(made.size(), false);
  if (!known[std::size_t(n)]) MPI_Comm_split(MPI_COMM_WORLD, process() < n ? 0 : MPI_UNDEFINED, 0, &made[std::size_t(n)]);
  known[std::size_t(n)] = true;
  return made[std::size_t(n)];
}

} // namespace mpi_tests
