# Fuzzing: random differential cases and the corpus, libFuzzer targets for untrusted input, and a soak of a few seconds.
# Without a clang that has libFuzzer one entry is reported as skipped, with the reason; the rest of this file does not need it.

# Differential cases of each element type are compiled once for all programs that run them.
add_library(sp_fuzz_checks OBJECT fuzz/check_double.cpp fuzz/check_float.cpp fuzz/check_bf16.cpp fuzz/check_fp16.cpp)
target_link_libraries(sp_fuzz_checks PRIVATE doctest::doctest sp_program_settings)
target_include_directories(sp_fuzz_checks PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
target_compile_options(sp_fuzz_checks PRIVATE ${sp_lightly_optimised})
set_target_properties(sp_fuzz_checks PROPERTIES UNITY_BUILD ${SP_TEST_UNITY} UNITY_BUILD_BATCH_SIZE 2)
target_sources(test_fuzz PRIVATE $<TARGET_OBJECTS:sp_fuzz_checks>)
target_compile_options(test_fuzz PRIVATE ${sp_lightly_optimised}) # one function must not be compiled in two ways in one program
set_tests_properties(fuzz.differential fuzz.metamorphic fuzz.shrink PROPERTIES PROCESSORS 2 COST 200)

# The soak: sp_soak runs on threads, sp_soak_job is started by mpirun. tests/soak.sh builds these two in a tree of its own, optimised.
sp_program(sp_soak soak/soak.cpp $<TARGET_OBJECTS:sp_fuzz_checks>)
target_link_libraries(sp_soak PRIVATE doctest::doctest)
target_compile_options(sp_soak PRIVATE ${sp_lightly_optimised})
target_include_directories(sp_soak PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
set(sp_soak_kills 0)
if(TARGET sp::mpi)
  set(sp_soak_kills 2)
  sp_program(sp_soak_job soak/job.cpp)
  target_link_libraries(sp_soak_job PRIVATE sp::mpi)
else()
  add_custom_target(sp_soak_job) # so that the script can ask for it anywhere
endif()
add_test(NAME fuzz.soak COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/soak.sh"
  --cases 50 --steps 500 --throws 5 --kills ${sp_soak_kills} --jobs 1)
set_tests_properties(fuzz.soak PROPERTIES LABELS fuzz TIMEOUT 300 COST 200
  ENVIRONMENT "SP_SOAK_PROGRAMS=${CMAKE_CURRENT_BINARY_DIR};SP_SOAK_LATENCY_MS=2000") # machines that test do other things as well

# libFuzzer targets: tests/fuzz/targets/fuzz_<name>.cpp with the corpus tests/corpus/<name>/, always compiled by clang.
set(sp_fuzz_flags -std=c++20 -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
set(probe "${CMAKE_CURRENT_BINARY_DIR}/fuzz_probe")
file(WRITE "${probe}.cpp" "#include <cstddef>\nextern \"C\" int LLVMFuzzerTestOneInput(unsigned char const*, std::size_t) { return 0; }\n")
execute_process(COMMAND "${SP_CLANGXX}" ${sp_fuzz_flags} "${probe}.cpp" -o "${probe}"
  RESULT_VARIABLE sp_no_fuzzer OUTPUT_QUIET ERROR_QUIET)
if(NOT sp_no_fuzzer EQUAL 0)
  message(WARNING "${SP_CLANGXX} has no libFuzzer (Debian: libclang-rt-16-dev): targets for untrusted input are left out")
  add_test(NAME fuzz.targets COMMAND "${CMAKE_COMMAND}" -E echo "skipped: no libFuzzer was found when this tree was configured")
  set_tests_properties(fuzz.targets PROPERTIES LABELS fuzz SKIP_REGULAR_EXPRESSION "skipped: no libFuzzer")
  return()
endif()

set(SP_FUZZ_TARGET_SECONDS "" CACHE STRING "Seconds of new inputs for each libFuzzer target; empty: 2, with SP_TEST_ALL 10")
set(sp_fuzz_seconds "${SP_FUZZ_TARGET_SECONDS}")
if("${sp_fuzz_seconds}" STREQUAL "")
  set(sp_fuzz_seconds $<IF:$<BOOL:${SP_TEST_ALL}>,10,2>)
endif()
file(GLOB sp_fuzz_targets CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/fuzz/targets/fuzz_*.cpp")
foreach(source IN LISTS sp_fuzz_targets)
  cmake_path(GET source STEM target)
  string(REPLACE "fuzz_" "" name "${target}")
  set(program "${CMAKE_CURRENT_BINARY_DIR}/${target}")
  add_custom_command(OUTPUT "${program}"
    COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} "${SP_CLANGXX}" ${sp_fuzz_flags} -Wall -Wextra -Wpedantic -Wshadow -Werror
      "-I${PROJECT_SOURCE_DIR}/include" "-I${CMAKE_CURRENT_SOURCE_DIR}" -MD -MF "${program}.d" -MT "${program}" -c "${source}" -o "${program}.o"
    COMMAND "${SP_CLANGXX}" ${sp_fuzz_flags} ${sp_quick_linker} "${program}.o" -o "${program}"
    DEPENDS "${source}" DEPFILE "${program}.d" VERBATIM COMMENT "libFuzzer target ${name}")
  add_custom_target(sp_${target} ALL DEPENDS "${program}")
  add_test(NAME fuzz.target.${name} COMMAND "${sp_tools}/fixed_addresses.sh" "${CMAKE_CURRENT_SOURCE_DIR}/fuzz/target.sh"
    "${program}" "${CMAKE_CURRENT_SOURCE_DIR}/corpus/${name}" ${sp_fuzz_seconds})
  set_tests_properties(fuzz.target.${name} PROPERTIES LABELS "fuzz;sanitize" TIMEOUT 300
    ENVIRONMENT "UBSAN_OPTIONS=print_stacktrace=1")
endforeach()

# The runner, tested: a target that has been broken on purpose is caught, from its corpus and by new inputs.
add_test(NAME control.fuzz COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/fuzz/control.sh" "${SP_CLANGXX}" "${CMAKE_CURRENT_BINARY_DIR}/fuzz_control")
set_tests_properties(control.fuzz PROPERTIES LABELS control TIMEOUT 120)
