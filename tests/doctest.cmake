# Test programs: one executable and one CTest entry per source file, with one doctest main for all.
# A program that runs no case, and a case that asserts nothing, fails.
add_library(sp_test_main OBJECT main.cpp)
target_link_libraries(sp_test_main PRIVATE doctest::doctest sp_program_settings)
target_include_directories(sp_test_main PRIVATE "${PROJECT_SOURCE_DIR}/tests")

# sp_test_program(<target> <main object library> <source>)
function(sp_test_program target main source)
  sp_program(${target} "${source}" $<TARGET_OBJECTS:${main}>)
  target_link_libraries(${target} PRIVATE doctest::doctest)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests") # shared helpers: "support/oracle.hpp"
  target_compile_definitions(${target} PRIVATE DOCTEST_CONFIG_SUPER_FAST_ASSERTS SP_TEST_DIR="${PROJECT_SOURCE_DIR}/tests")
endfunction()

# sp_test_entry(<name> <source> <label> <timeout> <command>...): tests whose ranks are threads take two processors. A source shows
# that by itself, but for the conformance layer: its headers start the ranks.
function(sp_test_entry name source label timeout)
  add_test(NAME ${name} COMMAND ${ARGN})
  sp_uses_threads(threaded "${source}")
  if(threaded OR "conformance" IN_LIST label)
    set_tests_properties(${name} PROPERTIES PROCESSORS 2)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${label}" TIMEOUT ${timeout})
endfunction()

file(GLOB sp_test_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*/test_*.cpp")
list(FILTER sp_test_sources EXCLUDE REGEX "/mpi/test_[^/]*$") # started by mpirun: see mpi.cmake
foreach(source IN LISTS sp_test_sources)
  cmake_path(GET source PARENT_PATH folder)
  cmake_path(GET folder FILENAME layer)
  cmake_path(GET source STEM stem)
  string(REGEX REPLACE "^test_" "" stem "${stem}")
  sp_test_program(${layer}.${stem} sp_test_main "${source}")
  sp_test_entry(${layer}.${stem} "${source}" ${layer} 300 ${layer}.${stem})
endforeach()

# The guard in main.cpp, tested: a run without a test case fails, and so does a case without an assertion.
sp_test_program(control.vacuous sp_test_main controls/vacuous.cpp)
add_test(NAME control.no_test_case
  COMMAND "${sp_tools}/must_fail.sh" "no test case was executed" $<TARGET_FILE:control.vacuous> --test-case=no-such-case)
add_test(NAME control.no_assertion
  COMMAND "${sp_tools}/must_fail.sh" "vacuous test case: \"asserts nothing\"" $<TARGET_FILE:control.vacuous>)
add_test(NAME control.assertion COMMAND control.vacuous --test-case=asserts)
set_tests_properties(control.no_test_case control.no_assertion control.assertion PROPERTIES LABELS control TIMEOUT 60)
