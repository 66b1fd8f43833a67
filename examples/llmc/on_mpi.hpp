// Ranks of the made program that are processes of an MPI job; on_threads.hpp has the same names for threads.
// The number of ranks is mpirun's; a rank that fails says why and takes the job with it.
#pragma once

#include <exception>
#include <stdexcept>

#include <sp/mpi.hpp>

#include "options.hpp"
#include "sequence.hpp"

namespace llmc {

using job = job_of<sp::mpi>;
using sequence = sequence_of<sp::mpi>;

/// main of the made program: body is llm.c's.
inline int run(int argc, char** argv, int (*body)(job const&)) {
  options const o = read_options(argc, argv, false);
  int provided = 0, code = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided); // llm.c's OpenMP threads never call MPI
  try {
    if (provided < MPI_THREAD_FUNNELED) throw std::runtime_error("this MPI allows no threads beside the one that calls it");
    sp::mpi::run(MPI_COMM_WORLD, [&](sp::mpi const& ranks) {
      speaks = ranks.rank() == 0;
      code = body({ranks, o.end_of_text});
    });
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return code;
}

} // namespace llmc
