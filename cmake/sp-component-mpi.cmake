# Component mpi of sp: the target sp::mpi, which <sp/mpi.hpp> needs. Included by the source tree and by the installed package alike.
# Looks for MPI and threads; sets sp_mpi_FOUND, and sp_mpi_NOT_FOUND_MESSAGE when they are missing. Adds no flag of its own.
set(sp_mpi_FOUND TRUE)
if(NOT TARGET sp::mpi)
  if(NOT DEFINED MPI_CXX_SKIP_MPICXX)
    set(MPI_CXX_SKIP_MPICXX TRUE) # the C interface is used; the old C++ bindings would cost every file that includes mpi.h
  endif()
  find_package(MPI QUIET COMPONENTS CXX)
  set(THREADS_PREFER_PTHREAD_FLAG ON)
  find_package(Threads QUIET)
  if(MPI_CXX_FOUND AND Threads_FOUND)
    add_library(sp::mpi INTERFACE IMPORTED)
    target_link_libraries(sp::mpi INTERFACE sp::sp MPI::MPI_CXX Threads::Threads)
  else()
    set(sp_mpi_FOUND FALSE)
    set(sp_mpi_NOT_FOUND_MESSAGE "needs MPI (MPI::MPI_CXX) and Threads, which CMake did not find. \
Install an MPI with its compiler wrapper (Debian: libopenmpi-dev), or name it with MPI_HOME or MPI_CXX_COMPILER")
  endif()
endif()
