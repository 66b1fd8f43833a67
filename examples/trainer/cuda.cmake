# The trainer with attention, the loss, sums of ranks and matrix products on a CUDA device: sp_trainer_cuda. examples/run.sh --cuda builds it,
# and so does SP_TEST_ALL; nothing else does. One source is compiled by nvcc, the others are those of the other trainers.
find_program(SP_NVCC nvcc HINTS ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
set(sp_trainer_cuda_missing "")
if(NOT SP_NVCC)
  set(sp_trainer_cuda_missing "no nvcc was found when this tree was configured")
elseif(NOT TARGET sp::cuda OR NOT TARGET CUDA::cublas)
  set(sp_trainer_cuda_missing "no CUDA runtime or no cuBLAS was found when this tree was configured")
endif()

if(sp_trainer_cuda_missing)
  add_custom_target(sp_trainer_cuda
    COMMAND "${CMAKE_COMMAND}" -E echo "sp: the trainer for CUDA devices cannot be built: ${sp_trainer_cuda_missing}" COMMAND "${CMAKE_COMMAND}" -E false VERBATIM)
else()
  set(SP_TRAINER_CUDA_ARCH "" CACHE STRING "The device that nvcc compiles the trainer for, as sm_80; empty: this machine's, or sm_90a where there is none")
  set(sp_trainer_arch "${SP_TRAINER_CUDA_ARCH}")
  if(NOT sp_trainer_arch)
    execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader OUTPUT_VARIABLE found ERROR_QUIET RESULT_VARIABLE failed)
    if(NOT failed AND found MATCHES "^([0-9]+)[.]([0-9]+)")
      set(sp_trainer_arch "sm_${CMAKE_MATCH_1}${CMAKE_MATCH_2}")
    elseif(SP_TEST_ALL)
      set(sp_trainer_arch compute_90a) # without the assembler, which cuda.resources asks
    else()
      set(sp_trainer_arch sm_90a)
    endif()
  endif()
  string(REGEX REPLACE "^[a-z]+_" "" sp_trainer_number "${sp_trainer_arch}")
  set(sp_trainer_code -gencode arch=compute_${sp_trainer_number},code=${sp_trainer_arch}) # nvcc 13 compiles twice for -arch=sm_90a
  set(sp_trainer_host_compiler "")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(sp_trainer_host_compiler -ccbin "${CMAKE_CXX_COMPILER}")
  endif()
  set(sp_trainer_device "${CMAKE_CURRENT_BINARY_DIR}/trainer_group_work.o")
  # -std: CMake 3.25 knows no C++20 of nvcc
  add_custom_command(OUTPUT "${sp_trainer_device}" DEPFILE "${sp_trainer_device}.d"
    COMMAND "${SP_NVCC}" -std=c++20 -O2 ${sp_trainer_code} -Werror all-warnings ${sp_trainer_host_compiler}
      -I "${PROJECT_SOURCE_DIR}/include" -I "${CMAKE_CURRENT_SOURCE_DIR}/trainer" -MD -MF "${sp_trainer_device}.d"
      -c "${CMAKE_CURRENT_SOURCE_DIR}/trainer/ranks/cuda/group_work.cu" -o "${sp_trainer_device}"
    DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/trainer/ranks/cuda/group_work.cu"
    COMMENT "Compiling the trainer's work for ${sp_trainer_arch}" VERBATIM)
  sp_trainer_program(sp_trainer_cuda cuda)
  target_sources(sp_trainer_cuda PRIVATE "${sp_trainer_device}")
  target_link_libraries(sp_trainer_cuda PRIVATE sp::cuda CUDA::cublas)
  if(NOT SP_BUILD_TESTS OR NOT SP_TEST_ALL)
    set_target_properties(sp_trainer_cuda PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
endif()

# Tests. On the host, kernels run on emulated blocks and calls of CUDA and cuBLAS are those of fakes; and where there is a device, on it.
if(NOT SP_BUILD_TESTS)
  return()
endif()
find_package(Boost QUIET CONFIG COMPONENTS context)
if(NOT Python3_FOUND)
  set(sp_trainer_cuda_missing "no python3 was found when this tree was configured")
elseif(NOT SP_TEST_ALL)
  set(sp_trainer_cuda_missing "takes long to compile: runs with SP_TEST_ALL, tests/run.sh --all")
elseif(NOT TARGET Boost::context)
  set(sp_trainer_cuda_missing "no Boost.Context was found when this tree was configured (Debian: libboost-context-dev)")
endif()
if(sp_trainer_cuda_missing)
  foreach(name trainer_cuda trainer_over_fakes)
    add_test(NAME example.${name} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: ${sp_trainer_cuda_missing}")
  endforeach()
else()
  sp_trainer_program(sp_trainer_over_fakes cuda)
  target_sources(sp_trainer_over_fakes PRIVATE "${PROJECT_SOURCE_DIR}/tests/cuda/trainer_over_fakes.cpp" "${PROJECT_SOURCE_DIR}/tests/support/fake_cublas.cpp")
  target_include_directories(sp_trainer_over_fakes PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_link_libraries(sp_trainer_over_fakes PRIVATE sp_fake_cuda Boost::context)
  add_test(NAME example.trainer_over_fakes COMMAND Python3::Interpreter "${sp_trainer_check}" "$<TARGET_FILE:sp_trainer>"
    "${PROJECT_BINARY_DIR}/trainer-fakes-test" --cuda "$<TARGET_FILE:sp_trainer_over_fakes>")
  add_test(NAME example.trainer_cuda COMMAND Python3::Interpreter "${sp_trainer_check}" "$<TARGET_FILE:sp_trainer>"
    "${PROJECT_BINARY_DIR}/trainer-cuda-test" --cuda "$<TARGET_FILE:sp_trainer_cuda>")
endif()
set_tests_properties(example.trainer_cuda example.trainer_over_fakes PROPERTIES LABELS "example;cuda" TIMEOUT 900 PROCESSORS 2 COST 200
  SKIP_REGULAR_EXPRESSION "(^|\n)skipped: ")
