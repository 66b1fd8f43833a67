# Component nccl of sp: the target sp::nccl, which <sp/nccl.hpp> needs. Included by the source tree and by the installed package alike.
# Looks for NCCL and for what component cuda needs; sets sp_nccl_FOUND, and sp_nccl_NOT_FOUND_MESSAGE when one is missing. Adds no flag.
include("${CMAKE_CURRENT_LIST_DIR}/sp-component-cuda.cmake")
set(sp_nccl_FOUND TRUE)
if(NOT TARGET sp::nccl)
  if(sp_cuda_FOUND)
    find_path(SP_NCCL_INCLUDE_DIR nccl.h HINTS ENV NCCL_ROOT ENV NCCL_HOME ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
    find_library(SP_NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ENV NCCL_ROOT ENV NCCL_HOME ${CUDAToolkit_LIBRARY_DIR}
      PATH_SUFFIXES lib lib64)
    mark_as_advanced(SP_NCCL_INCLUDE_DIR SP_NCCL_LIBRARY)
  endif()
  if(sp_cuda_FOUND AND SP_NCCL_INCLUDE_DIR AND SP_NCCL_LIBRARY)
    add_library(sp::nccl INTERFACE IMPORTED)
    target_include_directories(sp::nccl SYSTEM INTERFACE "${SP_NCCL_INCLUDE_DIR}")
    target_link_libraries(sp::nccl INTERFACE sp::cuda "${SP_NCCL_LIBRARY}")
  else()
    set(sp_nccl_FOUND FALSE)
    set(sp_nccl_NOT_FOUND_MESSAGE "needs NCCL (nccl.h and libnccl) and the CUDA runtime, which CMake did not find. \
Install both, or name the folder of NCCL with NCCL_ROOT and that of CUDA with CUDAToolkit_ROOT")
  endif()
endif()
