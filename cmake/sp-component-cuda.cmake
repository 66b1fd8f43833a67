# Component cuda of sp: the target sp::cuda, which <sp/cuda.hpp> needs. Included by the source tree and by the installed package alike.
# Looks for the CUDA toolkit's runtime and threads; sets sp_cuda_FOUND, and sp_cuda_NOT_FOUND_MESSAGE when they are missing. Adds no flag.
set(sp_cuda_FOUND TRUE)
if(NOT TARGET sp::cuda)
  find_package(CUDAToolkit QUIET)
  set(THREADS_PREFER_PTHREAD_FLAG ON)
  find_package(Threads QUIET)
  if(TARGET CUDA::cudart AND Threads_FOUND)
    add_library(sp::cuda INTERFACE IMPORTED)
    target_link_libraries(sp::cuda INTERFACE sp::sp CUDA::cudart Threads::Threads ${CMAKE_DL_LIBS}) # dl: NVTX looks for a tool
  else()
    set(sp_cuda_FOUND FALSE)
    set(sp_cuda_NOT_FOUND_MESSAGE "needs the CUDA runtime (CUDA::cudart) and Threads, which CMake did not find. \
Install the CUDA toolkit, or name its folder with CUDAToolkit_ROOT")
  endif()
endif()
