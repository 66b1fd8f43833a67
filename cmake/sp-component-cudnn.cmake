# Component cudnn of sp: the target sp::cudnn, which <sp/cudnn.hpp> needs. Included by the source tree and by the installed package alike.
# Looks for the component cuda, cuDNN and cudnn-frontend (headers; SP_CUDNN_FRONTEND_DIR: the folder they were unpacked to); sets
# sp_cudnn_FOUND, and sp_cudnn_NOT_FOUND_MESSAGE when something is missing. Adds no flag of its own.
set(sp_cudnn_FOUND TRUE)
if(NOT TARGET sp::cudnn)
  include("${CMAKE_CURRENT_LIST_DIR}/sp-component-cuda.cmake")
  set(SP_CUDNN_FRONTEND_DIR "" CACHE PATH "Where cudnn-frontend is: the folder that holds include/cudnn_frontend.h")
  find_path(SP_CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h HINTS "${SP_CUDNN_FRONTEND_DIR}" PATH_SUFFIXES include)
  find_path(SP_CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(SP_CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR} "${CUDAToolkit_LIBRARY_ROOT}" PATH_SUFFIXES lib64 lib)
  mark_as_advanced(SP_CUDNN_FRONTEND_INCLUDE_DIR SP_CUDNN_INCLUDE_DIR SP_CUDNN_LIBRARY)
  if(TARGET CUDA::nvrtc AND sp_cuda_FOUND AND SP_CUDNN_FRONTEND_INCLUDE_DIR AND SP_CUDNN_INCLUDE_DIR AND SP_CUDNN_LIBRARY)
    add_library(sp::cudnn INTERFACE IMPORTED)
    set_target_properties(sp::cudnn PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${SP_CUDNN_FRONTEND_INCLUDE_DIR};${SP_CUDNN_INCLUDE_DIR}")
    target_link_libraries(sp::cudnn INTERFACE sp::cuda CUDA::nvrtc "${SP_CUDNN_LIBRARY}" ${CMAKE_DL_LIBS})
  else()
    set(sp_cudnn_FOUND FALSE)
    set(sp_cudnn_NOT_FOUND_MESSAGE "needs the CUDA runtime, NVRTC (CUDA::nvrtc), cuDNN (cudnn.h, libcudnn) and cudnn-frontend (cudnn_frontend.h), and CMake \
did not find all of them. Install cuDNN 9.19 or newer, unpack PyPI's nvidia-cudnn-frontend (pip download --no-deps nvidia-cudnn-frontend; \
unzip) and name its folder with SP_CUDNN_FRONTEND_DIR")
  endif()
endif()
