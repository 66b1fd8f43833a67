# How tests and benches start programs over MPI: the list sp_mpirun, to be followed by the number of ranks and the program.
# Ranks may outnumber cores and run as root in a container; a rank that waits leaves its core to the others.
include_guard(DIRECTORY)
set(sp_mpi_flags "")
execute_process(COMMAND "${MPIEXEC_EXECUTABLE}" --version OUTPUT_VARIABLE sp_mpi_version ERROR_QUIET)
if(sp_mpi_version MATCHES "Open MPI|OpenRTE|prterun")
  set(sp_mpi_flags --oversubscribe --allow-run-as-root --mca mpi_yield_when_idle 1)
endif()
set(sp_mpirun "${MPIEXEC_EXECUTABLE}" ${sp_mpi_flags} ${MPIEXEC_PREFLAGS} ${MPIEXEC_NUMPROC_FLAG})
