// The main function of test programs whose ranks are processes: every process runs all cases, and all exit with the same code.
// Rank 0 reports; another rank speaks only when a case of its own failed.
#define DOCTEST_CONFIG_IMPLEMENT
#include "support/run_tests.hpp"

#include <mpi.h>

#include <sstream>

namespace {

/// The worst code of all ranks. Every rank tells the others before it looks: a rank that is late still gets what it waits for.
int agreed(int code) {
  int worst = code;
  MPI_Allreduce(&code, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  return worst;
}

} // namespace

int main(int argc, char** argv) {
  int level = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::ostringstream said;
  doctest::Context context(argc, argv);
  if (rank != 0) context.setCout(&said);
  int const code = support::run_tests(context);
  if (rank != 0 && code != 0) std::fprintf(stderr, "--- rank %d\n%s", rank, said.str().c_str());
  int const all = agreed(code);
  MPI_Finalize();
  return all;
}
