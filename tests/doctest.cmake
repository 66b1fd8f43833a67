# Test programs: the sources of tests/<layer> are one program test_<layer>, and each is a CTest entry <layer>.<name> of it.
# A program that runs no case, and a case that asserts nothing, fails.
#
# A layer is compiled in one piece: headers are read once and templates that its sources share are instantiated once, which is most
# of the time to compile. So every source keeps its names in a namespace test_<name> of its own.
# "// optimised: <why>" in a source: many numbers are computed, and optimising costs less than it saves. These sources are a program
# of their own, because one function must not be compiled in two ways in one program.
# "// flags: <flags>" in a source: it is about programs compiled in such a way, and is one by itself.
# "// needs: <name>..." in a source: it is left out, and its entry skipped, while a variable sp_test_missing_<name> tells why.
# "// with all: <why>" in a source: it is left out, and its entry skipped, without SP_TEST_ALL.
# A variable sp_test_libraries_<layer> names what the programs of a layer are linked with, sp_test_libraries_<layer>_<name> that
# of a program by itself.
# Layers with much code for the little that it computes are optimised lightly: clang optimises kernels and oracle only.
# "// waits: <for what>" in a source: its ranks use less than one processor, however many they are, and bear a busy neighbour.
set(sp_lightly_optimised_layers conformance cuda mpi)
set(sp_clang_optimises_parts "$<$<AND:$<CONFIG:Debug>,$<CXX_COMPILER_ID:Clang>>:-O1;-include;support/optimised_parts.hpp>")
option(SP_TEST_UNITY "Compile the sources of a layer of tests in one piece" ON)

# sp_test_main_library(<target> <source> <flag>...): the main function of test programs
function(sp_test_main_library target source)
  add_library(${target} OBJECT ${source})
  target_link_libraries(${target} PRIVATE doctest::doctest sp_program_settings)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_options(${target} PRIVATE ${ARGN})
endfunction()
sp_test_main_library(sp_test_main main.cpp)

# sp_test_program(<target> <main object library> <source>...)
function(sp_test_program target main)
  sp_program(${target} ${ARGN} $<TARGET_OBJECTS:${main}>)
  target_link_libraries(${target} PRIVATE doctest::doctest)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests") # shared helpers: "support/oracle.hpp"
  target_compile_definitions(${target} PRIVATE DOCTEST_CONFIG_SUPER_FAST_ASSERTS SP_TEST_DIR="${PROJECT_SOURCE_DIR}/tests"
    $<$<BOOL:${SP_TEST_ALL}>:SP_TEST_ALL>) # "#ifdef SP_TEST_ALL": what is left out of the default run within a source
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${SP_TEST_UNITY} UNITY_BUILD_BATCH_SIZE 0)
endfunction()

# sp_reads_common_headers(<target>): support/common_headers.hpp is compiled once for all programs without flags of their own. The clang of
# the default run only: with SP_TEST_ALL it is seen that sources include what they use.
function(sp_reads_common_headers target)
  if(SP_TEST_ALL OR NOT SP_TEST_UNITY OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    return()
  endif()
  if(NOT TARGET sp_test_common_headers)
    file(CONFIGURE OUTPUT generated/common_headers.cpp CONTENT "// Has the headers compiled.\n")
    sp_test_program(sp_test_common_headers sp_test_main "${CMAKE_CURRENT_BINARY_DIR}/generated/common_headers.cpp")
    target_precompile_headers(sp_test_common_headers PRIVATE "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/support/common_headers.hpp")
  endif()
  target_precompile_headers(${target} REUSE_FROM sp_test_common_headers)
endfunction()

# sp_test_name(<layer variable> <name variable> <source>): of tests/<layer>/test_<name>.cpp
function(sp_test_name layer name source)
  cmake_path(GET source PARENT_PATH folder)
  cmake_path(GET folder FILENAME folder)
  cmake_path(GET source STEM stem)
  string(REGEX REPLACE "^test_" "" stem "${stem}")
  set(${layer} ${folder} PARENT_SCOPE)
  set(${name} ${stem} PARENT_SCOPE)
endfunction()

# sp_test_missing(<variable> <source>): why a source cannot be built; empty: it can
function(sp_test_missing variable source)
  set(${variable} "" PARENT_SCOPE)
  file(STRINGS "${source}" later REGEX "^// with all: " LIMIT_COUNT 1)
  if(later AND NOT SP_TEST_ALL)
    set(${variable} "runs with SP_TEST_ALL, tests/run.sh --all" PARENT_SCOPE)
  endif()
  file(STRINGS "${source}" needs REGEX "^// needs: " LIMIT_COUNT 1)
  string(REPLACE "// needs: " "" needs "${needs}")
  separate_arguments(needs)
  foreach(name IN LISTS needs)
    if(sp_test_missing_${name})
      set(${variable} "${sp_test_missing_${name}}" PARENT_SCOPE)
    endif()
  endforeach()
endfunction()

# sp_test_programs(<variable> <layer> <main object library> <source>...): programs of a layer, at most one that is optimised and one
# that is not, and one for each source with flags; the variable <variable>_<name> becomes the program of each source.
function(sp_test_programs variable layer main)
  set(plain "") # a function sees the variables of its caller
  set(quick "")
  foreach(source IN LISTS ARGN)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${source}") # what its head says must not be missed
    sp_test_name(folder name "${source}")
    file(STRINGS "${source}" optimised REGEX "^// optimised: " LIMIT_COUNT 1)
    file(STRINGS "${source}" flags REGEX "^// flags: " LIMIT_COUNT 1)
    if(flags)
      string(REPLACE "// flags: " "" flags "${flags}")
      separate_arguments(flags)
      sp_test_program(test_${layer}_${name} ${main} "${source}")
      target_compile_options(test_${layer}_${name} PRIVATE ${flags})
      target_link_libraries(test_${layer}_${name} PRIVATE ${sp_test_libraries_${layer}_${name}})
      set(${variable}_${name} test_${layer}_${name} PARENT_SCOPE)
    elseif(optimised)
      list(APPEND quick "${source}")
      set(${variable}_${name} test_${layer}_optimised PARENT_SCOPE)
    else()
      list(APPEND plain "${source}")
      set(${variable}_${name} test_${layer} PARENT_SCOPE)
    endif()
  endforeach()
  if(plain)
    sp_test_program(test_${layer} ${main} ${plain})
    target_link_libraries(test_${layer} PRIVATE ${sp_test_libraries_${layer}})
    sp_reads_common_headers(test_${layer})
  endif()
  if(quick)
    sp_test_program(test_${layer}_optimised ${main} ${quick})
    target_link_libraries(test_${layer}_optimised PRIVATE ${sp_test_libraries_${layer}})
    if(layer IN_LIST sp_lightly_optimised_layers)
      target_compile_options(test_${layer}_optimised PRIVATE ${sp_lightly_optimised} ${sp_clang_optimises_parts})
    else()
      target_compile_options(test_${layer}_optimised PRIVATE ${sp_optimised})
    endif()
    set_target_properties(test_${layer}_optimised PROPERTIES UNITY_BUILD_BATCH_SIZE 2) # as heavy as a layer each
  endif()
endfunction()

# sp_test_of_ranks(<entry> <source>): an entry of several ranks takes two processors, unless the source says that they wait. These
# come first (COST): those that take two do not find two free among the others, and while some wait the others keep processors busy.
function(sp_test_of_ranks name source)
  set_tests_properties(${name} PROPERTIES COST 200)
  file(STRINGS "${source}" waits REGEX "^// waits: " LIMIT_COUNT 1)
  if(NOT waits)
    set_tests_properties(${name} PROPERTIES PROCESSORS 2)
  endif()
endfunction()

# sp_test_entry(<name> <source> <label> <timeout> <command>...): a source shows by itself that its ranks are threads, but for the
# conformance layer: its headers start the ranks.
function(sp_test_entry name source label timeout)
  cmake_path(GET source FILENAME file)
  add_test(NAME ${name} COMMAND ${ARGN} "--source-file=*/${file}")
  sp_uses_threads(threaded "${source}")
  if(threaded OR "conformance" IN_LIST label)
    sp_test_of_ranks(${name} "${source}")
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${label}" TIMEOUT ${timeout})
endfunction()

file(GLOB sp_test_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*/test_*.cpp")
list(FILTER sp_test_sources EXCLUDE REGEX "/mpi/test_[^/]*$") # started by mpirun: see mpi.cmake
set(sp_test_layers "")
foreach(source IN LISTS sp_test_sources)
  sp_test_name(layer name "${source}")
  sp_test_missing(missing "${source}")
  if(missing)
    add_test(NAME ${layer}.${name} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: ${missing}")
    set_tests_properties(${layer}.${name} PROPERTIES LABELS ${layer} SKIP_REGULAR_EXPRESSION "^skipped: ")
    continue()
  endif()
  list(APPEND sp_test_layers ${layer})
  list(APPEND sp_test_sources_${layer} "${source}")
endforeach()
list(REMOVE_DUPLICATES sp_test_layers)
foreach(layer IN LISTS sp_test_layers)
  sp_test_programs(program ${layer} sp_test_main ${sp_test_sources_${layer}})
  foreach(source IN LISTS sp_test_sources_${layer})
    sp_test_name(layer name "${source}")
    sp_test_entry(${layer}.${name} "${source}" ${layer} 300 ${program_${name}})
  endforeach()
endforeach()

if(SP_TEST_ALL) # random trials after those in which every two choices meet
  set_tests_properties(conformance.double PROPERTIES ENVIRONMENT "SP_TEST_SECONDS=20")
  set_tests_properties(conformance.memory PROPERTIES ENVIRONMENT "SP_TEST_WIDE=1")
endif()

# The guard in main.cpp, tested: a run without a test case fails, and so does a case without an assertion.
sp_test_program(control.vacuous sp_test_main controls/vacuous.cpp)
add_test(NAME control.no_test_case
  COMMAND "${sp_tools}/must_fail.sh" "no test case was executed" $<TARGET_FILE:control.vacuous> --test-case=no-such-case)
add_test(NAME control.no_assertion
  COMMAND "${sp_tools}/must_fail.sh" "vacuous test case: \"asserts nothing\"" $<TARGET_FILE:control.vacuous>)
add_test(NAME control.assertion COMMAND control.vacuous --test-case=asserts)
set_tests_properties(control.no_test_case control.no_assertion control.assertion PROPERTIES LABELS control TIMEOUT 60)
