# Tests over real processes: programs under tests/mpi, each started by mpirun.
# Without an MPI installation they are reported as not run.
