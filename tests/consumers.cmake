# Consumers: small projects outside the tree use sp in every way people use C++ libraries, each in an empty folder.
# One entry installs and moves the tree for all; tools/consumer.sh does the steps. MPI's own entry needs sp::mpi.
find_program(SP_PKG_CONFIG NAMES pkg-config pkgconf REQUIRED)
set(sp_mpirun_words "")
if(TARGET sp::mpi)
  include("${PROJECT_SOURCE_DIR}/cmake/SpMpirun.cmake")
  list(JOIN sp_mpirun " " sp_mpirun_words)
endif()

set(sp_left_out auto_wrap_pfr fmt ${sp_components}) # what needs somebody else's library
list(SORT sp_left_out)
list(JOIN sp_left_out " " sp_left_out)

# sp_consumer(<kind> <compiler> [with_all]): the entry consumer.<kind>; the compilers take turns
function(sp_consumer kind compiler)
  if("with_all" IN_LIST ARGN AND NOT SP_TEST_ALL)
    add_test(NAME consumer.${kind} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: runs with SP_TEST_ALL, tests/run.sh --all")
    set_tests_properties(consumer.${kind} PROPERTIES LABELS consumer SKIP_REGULAR_EXPRESSION "^skipped: ")
    return()
  endif()
  add_test(NAME consumer.${kind} COMMAND "${sp_tools}/consumer.sh" ${kind})
  set_tests_properties(consumer.${kind} PROPERTIES LABELS consumer TIMEOUT 300 COST 50 FIXTURES_REQUIRED sp_installed
    ENVIRONMENT "CMAKE=${CMAKE_COMMAND};CXX=${compiler};CLANGXX=${SP_CLANGXX};PKG_CONFIG=${SP_PKG_CONFIG};MPIRUN=${sp_mpirun_words};\
CONSUMERS=${CMAKE_CURRENT_SOURCE_DIR}/consumers;SOURCE=${PROJECT_SOURCE_DIR};VERSION=${PROJECT_VERSION};LEFT_OUT=${sp_left_out};ALL=$<$<BOOL:${SP_TEST_ALL}>:yes>;BUILD=${PROJECT_BINARY_DIR};\
INSTALLED=${CMAKE_CURRENT_BINARY_DIR}/consumers/moved")
endfunction()

sp_consumer(install "${SP_GXX}")
set_tests_properties(consumer.install PROPERTIES FIXTURES_REQUIRED "" FIXTURES_SETUP sp_installed)
sp_consumer(find_package "${SP_GXX}")
sp_consumer(add_subdirectory "${SP_CLANGXX}")
sp_consumer(fetch_content "${SP_CLANGXX}" with_all) # add_subdirectory behind a download
sp_consumer(pkg_config "${SP_CLANGXX}")
sp_consumer(include_path "${SP_CLANGXX}" with_all)
sp_consumer(single_header "${SP_GXX}")
sp_consumer(without_mpi "${SP_GXX}")
if(TARGET sp::cuda)
  sp_consumer(cuda "${SP_GXX}")
endif()
if(TARGET sp::nccl AND SP_TEST_ALL)
  sp_consumer(nccl "${SP_GXX}")
endif()
if(TARGET sp::mpi)
  sp_consumer(components "${SP_CLANGXX}" with_all)
else()
  add_test(NAME consumer.components COMMAND "${CMAKE_COMMAND}" -E echo "not run: MPI was not found, so there is no sp::mpi")
  set_tests_properties(consumer.components PROPERTIES LABELS consumer SKIP_REGULAR_EXPRESSION "not run: ")
endif()
