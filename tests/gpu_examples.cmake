# The examples for GPUs, examples/*.cu. With SP_TEST_ALL nvcc makes programs of them, which run where there is a device and are skipped
# elsewhere; and the C++ compiler makes programs over the fakes of the runtime and of NCCL and over emulated blocks, which judge their own
# numbers on any machine. By default nvcc compiles one of them, up to the code of a virtual device: what the assembler makes of the kernels
# is checked by cuda.resources.
file(GLOB sp_gpu_examples CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/examples/[0-9]*.cu")

# sp_gpu_example_skipped(<entry> <why>)
function(sp_gpu_example_skipped entry why)
  add_test(NAME ${entry} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: ${why}")
  set_tests_properties(${entry} PROPERTIES LABELS "example;cuda" SKIP_REGULAR_EXPRESSION "^skipped: ")
endfunction()

# sp_gpu_example_nvcc(<entry> <source> <flag>...): compiled as README.md and docs/gpu.md say
function(sp_gpu_example_nvcc entry source)
  add_test(NAME ${entry} COMMAND "${SP_NVCC}" -std=c++20 -I "${PROJECT_SOURCE_DIR}/include" -isystem "${SP_NCCL_INCLUDE_DIR}"
    -Werror all-warnings -ccbin "${SP_GXX}" ${ARGN} "${source}")
  set_tests_properties(${entry} PROPERTIES LABELS "example;cuda" TIMEOUT 1200 COST 100)
endfunction()

# sp_gpu_example_on_fakes(<program> <source>): the same text, whose kernels run on emulated blocks
function(sp_gpu_example_on_fakes program source)
  sp_program(${program} "${source}")
  target_include_directories(${program} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(${program} PRIVATE ${sp_test_libraries_cuda})
  target_compile_options(${program} PRIVATE -include support/emulated_block.hpp ${sp_optimised})
endfunction()

# sp_gpu_example_entry(<entry> <command>...): one program, run
function(sp_gpu_example_entry entry)
  add_test(NAME ${entry} COMMAND ${ARGN})
  set_tests_properties(${entry} PROPERTIES LABELS "example;cuda" TIMEOUT 300 PROCESSORS 2 COST 200 SKIP_RETURN_CODE 77)
endfunction()

if(SP_TEST_ALL)
  set(sp_gpu_examples_missing "${sp_test_missing_nccl}") # and with it CUDA
else()
  set(sp_gpu_examples_missing "runs with SP_TEST_ALL, tests/run.sh --all")
endif()
if(NOT TARGET sp::nccl OR NOT SP_NVCC)
  set(sp_nvcc_examples_missing "no nvcc or no NCCL was found when this tree was configured")
else()
  set(sp_nvcc_examples_missing "${sp_gpu_examples_missing}")
  cmake_path(GET SP_NCCL_LIBRARY PARENT_PATH sp_nccl_folder)
endif()

foreach(source IN LISTS sp_gpu_examples)
  cmake_path(GET source STEM stem)

  set(program "${CMAKE_CURRENT_BINARY_DIR}/${stem}")
  if(NOT sp_nvcc_examples_missing)
    sp_gpu_example_nvcc(example.${stem}.nvcc "${source}" -gencode arch=compute_90a,code=sm_90a "${SP_NCCL_LIBRARY}" -Xlinker "-rpath=${sp_nccl_folder}" -o "${program}")
    sp_gpu_example_entry(example.${stem} "${program}")
    set_tests_properties(example.${stem}.nvcc PROPERTIES FIXTURES_SETUP ${stem})
    set_tests_properties(example.${stem} PROPERTIES FIXTURES_REQUIRED ${stem})
  else()
    sp_gpu_example_skipped(example.${stem} "${sp_nvcc_examples_missing}")
    if(SP_NVCC AND TARGET sp::nccl AND stem STREQUAL "08_packed_qkv")
      sp_gpu_example_nvcc(example.${stem}.nvcc "${source}" -arch=sm_90a -ptx -o "${program}.ptx")
    else()
      sp_gpu_example_skipped(example.${stem}.nvcc "${sp_nvcc_examples_missing}")
    endif()
  endif()

  if(sp_gpu_examples_missing OR sp_test_missing_context)
    sp_gpu_example_skipped(example.${stem}.fakes "${sp_gpu_examples_missing}${sp_test_missing_context}")
  else()
    set_source_files_properties("${source}" PROPERTIES LANGUAGE CXX)
    sp_gpu_example_on_fakes(${stem}_fakes "${source}")
    sp_gpu_example_entry(example.${stem}.fakes ${stem}_fakes)
  endif()
endforeach()

# The other ways: 08_packed_qkv on one device, where the fake has two; 07_nccl with more ranks than that, a mesh of two by two, and as an
# MPI job, of one process, because ranks of the fake are threads.
if(TARGET 07_nccl_fakes)
  sp_gpu_example_entry(example.08_packed_qkv.fakes.one_device 08_packed_qkv_fakes one_device)
  sp_gpu_example_entry(example.07_nccl.fakes.four 07_nccl_fakes 4)
  if(TARGET sp::mpi)
    include("${PROJECT_SOURCE_DIR}/cmake/SpMpirun.cmake")
    sp_gpu_example_on_fakes(07_nccl_mpi_fakes "${PROJECT_SOURCE_DIR}/examples/07_nccl.cu")
    target_compile_definitions(07_nccl_mpi_fakes PRIVATE SP_MPI)
    target_compile_options(07_nccl_mpi_fakes PRIVATE -O0)
    target_link_libraries(07_nccl_mpi_fakes PRIVATE sp::mpi)
    sp_gpu_example_entry(example.07_nccl.fakes.mpi ${sp_mpirun} 1 "$<TARGET_FILE:07_nccl_mpi_fakes>")
  endif()
endif()
