// Calls of MPI: its header, what its errors say, and whether it may be called at all.
// The first error of any call is kept for who looks after the communicator.
#pragma once

// The C++ classes that old mpi.h files bring along need a library of their own; the C functions are all that is used here.
#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>
#if (defined(OPEN_MPI) || defined(MVAPICH2_VERSION)) && __has_include(<mpi-ext.h>)
#include <mpi-ext.h> // MPIX_Query_cuda_support
#endif

#include <string>

#include <sp/core/error.hpp>
#include <sp/core/index.hpp>

namespace sp::detail {

inline std::string mpi_error_text(int code) {
  char text[MPI_MAX_ERROR_STRING + 1]{};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return "MPI error " + std::to_string(code) + ": " + std::string(text, std::size_t(length));
}

inline void mpi_check(int code, char const* call) {
  if (code != MPI_SUCCESS)
    fail({errc::backend_error, std::string(call) + " failed, " + mpi_error_text(code), "See the text of your MPI", "sp::mpi"});
}

/// MPI is between MPI_Init and MPI_Finalize.
inline bool mpi_is_running() {
  int begun = 0, over = 0;
  MPI_Initialized(&begun);
  if (begun) MPI_Finalized(&over);
  return begun && !over;
}

/// Whether the MPI that is loaded says that it takes addresses of device memory; one that cannot be asked does not say so.
inline bool mpi_takes_device_memory() {
#if defined(MPIX_CUDA_AWARE_SUPPORT)
  return MPIX_Query_cuda_support() == 1;
#elif defined(MPIX_GPU_SUPPORT_CUDA)
  int takes = 0;
  return MPIX_GPU_query_support(MPIX_GPU_SUPPORT_CUDA, &takes) == MPI_SUCCESS && takes;
#else
  return false;
#endif
}
/// "Open MPI v4.1.4, ...": what it says first.
inline std::string mpi_library_name() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING + 1]{};
  int length = 0;
  if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) return "an MPI without a name";
  std::string const all(text);
  return all.substr(0, all.find_first_of(",\n"));
}

/// Keeps the first error of any call.
class mpi_calls {
public:
  /// MPI_SUCCESS, or the first error.
  int error() const noexcept { return error_; }
  char const* failed_call() const noexcept { return failed_call_; }
  bool good(int code, char const* call) {
    if (code != MPI_SUCCESS && error_ == MPI_SUCCESS) {
      error_ = code;
      failed_call_ = call;
    }
    return code == MPI_SUCCESS;
  }

private:
  int error_ = MPI_SUCCESS;
  char const* failed_call_ = "";
};

} // namespace sp::detail
