# Tests over real processes: every tests/mpi/test_<name>.cpp is the entry mpi.<name> of the program test_mpi, started by mpirun.
# "// ranks: 8" in a source asks for that many processes instead of 4, "// also: tcp" for a second entry mpi.<name>.tcp, where Open MPI
# moves all bytes over TCP. Without MPI one entry is reported as skipped, with the reason.
if(NOT TARGET sp::mpi)
  message(WARNING "No MPI: sp::mpi, its headers and its tests are left out")
  add_test(NAME mpi COMMAND "${CMAKE_COMMAND}" -E echo "skipped: no MPI was found when this tree was configured")
  set_tests_properties(mpi PROPERTIES LABELS mpi SKIP_REGULAR_EXPRESSION "skipped: no MPI")
  return()
endif()

include("${PROJECT_SOURCE_DIR}/cmake/SpMpirun.cmake")
find_program(SP_TIMEOUT timeout REQUIRED)

sp_test_main_library(sp_mpi_test_main mpi/main.cpp)
target_link_libraries(sp_mpi_test_main PRIVATE sp::mpi)

# sp_mpi_test_entry(<name> <source> <ranks> <label> <timeout> <command>...): mpirun takes its processes with it when it is told to end,
# so the limit is kept by timeout(1), which asks before it kills.
function(sp_mpi_test_entry name source ranks label timeout)
  math(EXPR last "${timeout} + 30")
  add_test(NAME ${name} COMMAND "${SP_TIMEOUT}" --kill-after=10 ${timeout}
    ${sp_mpirun} ${ranks} ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS "${label}" TIMEOUT ${last})
  sp_test_of_ranks(${name} "${source}")
endfunction()

file(GLOB sp_mpi_test_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/mpi/test_*.cpp")
sp_test_programs(program mpi sp_mpi_test_main ${sp_mpi_test_sources})
foreach(source IN LISTS sp_mpi_test_sources)
  sp_test_name(layer name "${source}")
  file(STRINGS "${source}" ranks REGEX "^// ranks: [0-9]+$" LIMIT_COUNT 1)
  string(REGEX REPLACE "[^0-9]" "" ranks "${ranks}")
  if(NOT ranks)
    set(ranks 4)
  endif()
  target_link_libraries(${program_${name}} PRIVATE sp::mpi)
  cmake_path(GET source FILENAME file)
  sp_mpi_test_entry(mpi.${name} "${source}" ${ranks} mpi 300 $<TARGET_FILE:${program_${name}}> "--source-file=*/${file}")
  file(STRINGS "${source}" also REGEX "^// also: tcp$" LIMIT_COUNT 1)
  if(also)
    sp_mpi_test_entry(mpi.${name}.tcp "${source}" ${ranks} mpi 300 $<TARGET_FILE:${program_${name}}> "--source-file=*/${file}")
    set_tests_properties(mpi.${name}.tcp PROPERTIES ENVIRONMENT "OMPI_MCA_btl=tcp,self")
  endif()
endforeach()
if(SP_TEST_ALL) # more moments at which a rank is stopped
  sp_mpi_test_entry(mpi.mpi_shared.wide mpi/test_mpi_shared.cpp 4 mpi 300 $<TARGET_FILE:${program_mpi_shared}> "--test-case=mpi shared: a rank that is stopped*")
  set_tests_properties(mpi.mpi_shared.wide PROPERTIES ENVIRONMENT "SP_TEST_WIDE=1")
endif()
if(SP_TEST_ALL) # parcels that are larger than anything between two processes
  foreach(transport vader tcp)
    sp_mpi_test_entry(mpi.mpi_buffers.${transport}.wide mpi/test_mpi_buffers.cpp 3 mpi 300 $<TARGET_FILE:${program_mpi_buffers}>
      "--source-file=*/test_mpi_buffers.cpp")
    set_tests_properties(mpi.mpi_buffers.${transport}.wide PROPERTIES
      ENVIRONMENT "OMPI_MCA_btl=${transport},self;SP_TEST_PARCEL_BYTES=1610612736")
  endforeach()
endif()

# Threads of a process that use one communicator, by the thread sanitizer; MPI itself is not built for it and is left out.
if(SP_TEST_ALL AND SP_TEST_SANITIZERS)
  sp_test_main_library(sp_mpi_test_main_tsan mpi/main.cpp)
  sp_sanitized(sp_mpi_test_main_tsan tsan)
  target_link_libraries(sp_mpi_test_main_tsan PRIVATE sp::mpi)
  sp_test_program(test_mpi_tsan sp_mpi_test_main_tsan mpi/test_mpi_waits.cpp)
  target_link_libraries(test_mpi_tsan PRIVATE sp::mpi)
  sp_sanitized(test_mpi_tsan tsan)
  sp_mpi_test_entry(mpi.mpi_waits.tsan mpi/test_mpi_waits.cpp 2 "mpi;sanitize" 300
    "${sp_tools}/fixed_addresses.sh" $<TARGET_FILE:test_mpi_tsan> "--test-case=*[tsan]*")
  set_tests_properties(mpi.mpi_waits.tsan PROPERTIES ENVIRONMENT "TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1")
endif()

# The guard holds here too: no test case is a failure of the whole job.
add_test(NAME control.mpi.no_test_case COMMAND "${sp_tools}/must_fail.sh" "no test case was executed"
  ${sp_mpirun} 2 $<TARGET_FILE:test_mpi> --test-case=no-such-case)
set_tests_properties(control.mpi.no_test_case PROPERTIES LABELS "control;mpi" TIMEOUT 60)
