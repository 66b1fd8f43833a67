# Code for devices: what its tests need, and what only nvcc compiles. No test runs on a device: tests/gpu.sh does that.
# Without Boost.Context or nvcc the entries that need them are reported as skipped, with the reason.

# Kernels run on the host over tests/support/emulated_block.hpp, whose threads are fibers.
find_package(Boost QUIET CONFIG COMPONENTS context)
if(TARGET Boost::context)
  set(sp_test_libraries_cuda Boost::context)
  set(sp_test_missing_context "")
else()
  set(sp_test_missing_context "no Boost.Context was found when this tree was configured (Debian: libboost-context-dev)")
endif()

# The runtime that tests are linked with in place of CUDA's: a fake, over threads of the host. Each program compiles it as it is compiled.
add_library(sp_fake_cuda INTERFACE)
target_sources(sp_fake_cuda INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/support/fake_cuda.cpp")
set_source_files_properties("${CMAKE_CURRENT_SOURCE_DIR}/support/fake_cuda.cpp" PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
if(TARGET sp::cuda)
  target_include_directories(sp_fake_cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
  if(SP_TEST_ALL)
    target_compile_definitions(sp_fake_cuda INTERFACE SP_TEST_ALL) # objects that others are made of run by default, all of them then
  endif()
  list(APPEND sp_test_libraries_cuda sp_fake_cuda)
  set(sp_test_missing_cuda "")
else()
  set(sp_test_missing_cuda "no CUDA toolkit was found when this tree was configured")
endif()

# NCCL likewise: a fake over the fake runtime.
if(TARGET sp::nccl)
  add_library(sp_fake_nccl INTERFACE)
  target_sources(sp_fake_nccl INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/support/fake_nccl.cpp")
  set_source_files_properties("${CMAKE_CURRENT_SOURCE_DIR}/support/fake_nccl.cpp" PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  target_include_directories(sp_fake_nccl SYSTEM INTERFACE "${SP_NCCL_INCLUDE_DIR}")
  list(APPEND sp_test_libraries_cuda sp_fake_nccl)
  set(sp_test_missing_nccl "")
else()
  set(sp_test_missing_nccl "no NCCL was found when this tree was configured")
endif()

# What nvcc compiles: all headers of device code in one source; with SP_TEST_ALL for both architectures, and each header alone, too.
find_program(SP_NVCC nvcc HINTS ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
if(SP_NVCC)
  file(GLOB_RECURSE sp_device_headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/sp/cuda/*" "${PROJECT_SOURCE_DIR}/include/sp/backend/cuda/*")
  set(sp_all_device "// Every header of device code; written by CMake.\n#pragma once\n")
  foreach(header IN LISTS sp_device_headers)
    cmake_path(RELATIVE_PATH header BASE_DIRECTORY "${PROJECT_SOURCE_DIR}/include")
    string(APPEND sp_all_device "#include <${header}>\n")
  endforeach()
  file(CONFIGURE OUTPUT generated/device_headers.hpp CONTENT "${sp_all_device}" @ONLY)
  set(sp_architectures -gencode arch=compute_90a,code=sm_90a)
  if(SP_TEST_ALL)
    list(APPEND sp_architectures -gencode arch=compute_80,code=sm_80 --threads 2)
  endif()
  # -std: CMake 3.25 knows no C++20 of nvcc
  add_test(NAME cuda.compile COMMAND "${SP_NVCC}" -std=c++20 -I "${PROJECT_SOURCE_DIR}/include" -Werror all-warnings
    ${sp_architectures} -ccbin "${SP_GXX}"
    -include "${CMAKE_CURRENT_BINARY_DIR}/generated/device_headers.hpp"
    -I "${CMAKE_CURRENT_SOURCE_DIR}" -c "${CMAKE_CURRENT_SOURCE_DIR}/cuda/block_proofs.cu" -o "${CMAKE_CURRENT_BINARY_DIR}/cuda_compile.o")
  # Objects over cuda_local, of every element type, for the device and the host. By default an example, 08_packed_qkv, stands for them.
  if(SP_TEST_ALL)
    add_test(NAME cuda.objects_nvcc COMMAND "${SP_NVCC}" -std=c++20 -I "${PROJECT_SOURCE_DIR}/include" -Werror all-warnings
      -gencode arch=compute_90a,code=sm_90a -c -ccbin "${SP_GXX}" "${CMAKE_CURRENT_SOURCE_DIR}/cuda/objects.cu" -o "${CMAKE_CURRENT_BINARY_DIR}/cuda_objects.o")
  else()
    add_test(NAME cuda.objects_nvcc COMMAND "${CMAKE_COMMAND}" -E echo "skipped: runs with SP_TEST_ALL, tests/run.sh --all")
  endif()
  if(SP_TEST_ALL)
    add_test(NAME headers.nvcc COMMAND Python3::Interpreter "${sp_tools}/headers.py" --compiler "${SP_NVCC}"
      --only "sp/(cuda[.]hpp|(cuda|backend/cuda)/.*)" "${PROJECT_SOURCE_DIR}/include" -- -ccbin "${SP_GXX}")
    set_tests_properties(headers.nvcc PROPERTIES LABELS tree TIMEOUT 600 COST 50)
  endif()
  # what the kernels of cuda_flash take of a multiprocessor; with SP_TEST_ALL of all configurations
  set(sp_configurations "")
  if(SP_TEST_ALL)
    set(sp_configurations --all)
  endif()
  add_test(NAME cuda.resources COMMAND Python3::Interpreter "${sp_tools}/resources.py" "${SP_NVCC}"
    "${CMAKE_CURRENT_SOURCE_DIR}/cuda/flash.cu" "${PROJECT_SOURCE_DIR}/include" ${sp_configurations} -ccbin "${SP_GXX}")
  set_tests_properties(cuda.resources PROPERTIES LABELS cuda TIMEOUT 1800 COST 20)
else()
  foreach(name cuda.compile cuda.objects_nvcc cuda.resources)
    add_test(NAME ${name} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: no nvcc was found when this tree was configured")
  endforeach()
  set_tests_properties(cuda.resources PROPERTIES LABELS cuda SKIP_REGULAR_EXPRESSION "^skipped: ")
endif()
set_tests_properties(cuda.compile cuda.objects_nvcc PROPERTIES LABELS cuda TIMEOUT 600 SKIP_REGULAR_EXPRESSION "^skipped: ")
add_test(NAME cuda.resources.control COMMAND Python3::Interpreter "${sp_tools}/resources.py" --self-test)
set_tests_properties(cuda.resources.control PROPERTIES LABELS cuda)

# sp::nccl as a trainer compiles and links it, with the NCCL that was found; the program tells what it finds where it runs.
if(SP_NVCC AND TARGET sp::nccl AND SP_TEST_ALL)
  cmake_path(GET SP_NCCL_LIBRARY PARENT_PATH sp_nccl_folder)
  add_test(NAME cuda.nccl.link COMMAND "${SP_NVCC}" -std=c++20 -I "${PROJECT_SOURCE_DIR}/include" -isystem "${SP_NCCL_INCLUDE_DIR}"
    -Werror all-warnings -gencode arch=compute_90a,code=sm_90a -ccbin "${SP_GXX}" "${CMAKE_CURRENT_SOURCE_DIR}/cuda/link_nccl.cu"
    "${SP_NCCL_LIBRARY}" -Xlinker "-rpath=${sp_nccl_folder}" -o "${CMAKE_CURRENT_BINARY_DIR}/link_nccl")
  add_test(NAME cuda.nccl.run COMMAND "${CMAKE_CURRENT_BINARY_DIR}/link_nccl")
  set_tests_properties(cuda.nccl.link PROPERTIES FIXTURES_SETUP link_nccl)
  set_tests_properties(cuda.nccl.run PROPERTIES FIXTURES_REQUIRED link_nccl)
else()
  foreach(name link run)
    add_test(NAME cuda.nccl.${name} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: no nvcc or no NCCL was found when this tree was configured, or SP_TEST_ALL was off")
  endforeach()
endif()
# sp::mpi_device over CUDA queues, with the MPI that was found
if(SP_NVCC AND TARGET sp::mpi AND MPI_CXX_COMPILER AND SP_TEST_ALL)
  include("${PROJECT_SOURCE_DIR}/cmake/SpMpirun.cmake")
  add_test(NAME cuda.mpi.link COMMAND "${SP_NVCC}" -std=c++20 -I "${PROJECT_SOURCE_DIR}/include" -Werror all-warnings
    -gencode arch=compute_90a,code=sm_90a -ccbin "${MPI_CXX_COMPILER}" "${CMAKE_CURRENT_SOURCE_DIR}/cuda/link_mpi.cu"
    -o "${CMAKE_CURRENT_BINARY_DIR}/link_mpi")
  add_test(NAME cuda.mpi.run COMMAND ${sp_mpirun} 2 "${CMAKE_CURRENT_BINARY_DIR}/link_mpi")
  set_tests_properties(cuda.mpi.link PROPERTIES FIXTURES_SETUP link_mpi ENVIRONMENT "OMPI_CXX=${SP_GXX};MPICH_CXX=${SP_GXX}")
  set_tests_properties(cuda.mpi.run PROPERTIES FIXTURES_REQUIRED link_mpi)
else()
  foreach(name link run)
    add_test(NAME cuda.mpi.${name} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: no nvcc or no MPI was found when this tree was configured, or SP_TEST_ALL was off")
  endforeach()
endif()
set_tests_properties(cuda.nccl.link cuda.nccl.run cuda.mpi.link cuda.mpi.run PROPERTIES LABELS cuda TIMEOUT 300 SKIP_REGULAR_EXPRESSION "(^|\n)skipped: ")

# tests/gpu.sh, which a machine with a GPU runs: it knows its steps, it says so where there is no GPU, what it makes of steps is right, and
# all its programs compile.
add_test(NAME cuda.gpu_script COMMAND "${CMAKE_COMMAND}" -E env CUDA_VISIBLE_DEVICES= "${CMAKE_CURRENT_SOURCE_DIR}/gpu.sh")
set_tests_properties(cuda.gpu_script PROPERTIES PASS_REGULAR_EXPRESSION "^skipped: no GPU was found")
add_test(NAME cuda.gpu_results COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/tools/gpu_script_check.sh" "${CMAKE_CURRENT_SOURCE_DIR}/gpu.sh")
set_tests_properties(cuda.gpu_results PROPERTIES TIMEOUT 120)
add_test(NAME cuda.gpu_steps COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/gpu.sh" --list)
set_tests_properties(cuda.gpu_steps PROPERTIES
  PASS_REGULAR_EXPRESSION "proofs\nflash\nreference\n.*cudnn\nbench_copies\nbench_attention\n.*memcheck_.*racecheck_")
if(SP_NVCC AND SP_TEST_ALL)
  add_test(NAME cuda.gpu_build COMMAND "${CMAKE_COMMAND}" -E env SP_CUDNN_FRONTEND_DIR=${SP_CUDNN_FRONTEND_DIR} SP_GPU_HOST=-O0
    SP_GPU_ARCH=compute_90a "${CMAKE_CURRENT_SOURCE_DIR}/gpu.sh" --build) # without the assembler: cuda.resources has it
else()
  add_test(NAME cuda.gpu_build COMMAND "${CMAKE_COMMAND}" -E echo
    "skipped: no nvcc was found when this tree was configured, or SP_TEST_ALL was off")
endif()
set_tests_properties(cuda.gpu_build PROPERTIES TIMEOUT 3600 COST 300 SKIP_REGULAR_EXPRESSION "^skipped: ")
set_tests_properties(cuda.gpu_script cuda.gpu_results cuda.gpu_steps cuda.gpu_build PROPERTIES LABELS cuda)
