// What a consumer of sp::mpi writes: the same small attention on ranks that are processes.
// Every process ends with 0 when its numbers are right.
#include "small_case.hpp"

#include <sp/mpi.hpp>

#include <cstdio>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int errors = 0;
  {
    sp::mpi world{MPI_COMM_WORLD};
    errors = consumer::check(world) + (world.size() >= 3 ? 0 : 1);
    std::printf("rank %d of %d: %d errors\n", world.rank(), world.size(), errors);
  }
  MPI_Finalize();
  return errors ? 1 : 0;
}
