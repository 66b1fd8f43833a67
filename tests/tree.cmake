# Checks of the tree itself: headers compile alone and together, layers hold, the format is right, lint is silent.
# The sources are checked as they are; none of these entries writes into the tree.

# Where fmt is, for sp/fmt.hpp; naming the system folder again would break #include_next.
set(sp_fmt_folders "$<FILTER:$<TARGET_PROPERTY:fmt::fmt,INTERFACE_INCLUDE_DIRECTORIES>,EXCLUDE,^/usr/include$>")
set(sp_fmt_flags "$<$<BOOL:${sp_fmt_folders}>:-isystem$<JOIN:${sp_fmt_folders},;-isystem>>")
set(sp_include_root "${PROJECT_SOURCE_DIR}/include")

# Where the headers of foreign libraries are. Without a library the headers that need it are left out of all checks here.
set(sp_left_out_headers "")
set(sp_foreign_flags "")
# sp_foreign(<target> <pattern of headers> <folder>...)
macro(sp_foreign target pattern)
  if(TARGET ${target})
    foreach(folder IN ITEMS ${ARGN})
      list(APPEND sp_foreign_flags "-isystem${folder}")
    endforeach()
  else()
    message(STATUS "No ${target}: headers.*, two_tu and tidy leave out the headers that need it")
    list(APPEND sp_left_out_headers "sp/${pattern}[.]hpp")
  endif()
endmacro()
sp_foreign(sp::mpi "(mpi|collective/mpi/[a-z_]+)" ${MPI_CXX_INCLUDE_DIRS})
sp_foreign(sp::cuda "(cuda|cuda/[a-z_]+|cudnn|backend/cudnn/engine)" ${CUDAToolkit_INCLUDE_DIRS})
sp_foreign(sp::nccl "(nccl|collective/nccl/[a-z_]+)" ${SP_NCCL_INCLUDE_DIR})
sp_foreign(sp_pfr "auto_wrap_pfr" "${SP_PFR_INCLUDE_DIR}")
set(sp_without "")
if(sp_left_out_headers)
  list(JOIN sp_left_out_headers "|" sp_left_out_headers)
  set(sp_without --without "${sp_left_out_headers}")
endif()

# Each header alone, included twice: those that users include, the compilers taking turns; with SP_TEST_ALL those by both, and in turns
# also those in folders. All headers together are compiled by the compiler of the tree (two_tu) and read by clang-tidy (tidy).
set(sp_turn 0)
foreach(pair "gcc=${SP_GXX}" "clang=${SP_CLANGXX}")
  string(REPLACE "=" ";" pair "${pair}")
  list(POP_FRONT pair kind compiler)
  set(sp_headers_alone --turn ${sp_turn})
  if(SP_TEST_ALL)
    list(APPEND sp_headers_alone --always "sp/[^/]+[.]hpp")
  else()
    list(APPEND sp_headers_alone --only "sp/[^/]+[.]hpp")
  endif()
  math(EXPR sp_turn "${sp_turn} + 1")
  add_test(NAME headers.${kind} COMMAND Python3::Interpreter "${sp_tools}/headers.py"
    --compiler "${compiler}" ${sp_headers_alone} ${sp_without} "${sp_include_root}" -- ${sp_foreign_flags} "${sp_fmt_flags}" COMMAND_EXPAND_LISTS)
  set_tests_properties(headers.${kind} PROPERTIES LABELS tree TIMEOUT 600 COST 100)
  # Templates warn where they are instantiated, in the programs of consumers.
  if(SP_TEST_ALL)
    add_test(NAME warnings.${kind} COMMAND Python3::Interpreter "${sp_tools}/headers.py" --compiler "${compiler}"
      --program "${CMAKE_CURRENT_SOURCE_DIR}/warnings/instantiations.cpp" "${sp_include_root}" -- ${sp_foreign_flags}
      COMMAND_EXPAND_LISTS)
  else()
    add_test(NAME warnings.${kind} COMMAND "${CMAKE_COMMAND}" -E echo "skipped: runs with SP_TEST_ALL, tests/run.sh --all")
  endif()
  set_tests_properties(warnings.${kind} PROPERTIES LABELS tree TIMEOUT 300 COST 20 SKIP_REGULAR_EXPRESSION "^skipped: ")
  add_test(NAME control.warnings.${kind} COMMAND Python3::Interpreter "${sp_tools}/headers.py" --compiler "${compiler}" --self-test)
  set_tests_properties(control.warnings.${kind} PROPERTIES LABELS control TIMEOUT 60)
endforeach()

# What the headers that users include cost them, in lines, which unlike times are the same from run to run.
set(sp_include_lines Python3::Interpreter "${sp_tools}/include_lines.py" --compiler "${SP_GXX}" ${sp_without})
set(sp_include_table "${sp_tools}/include_lines.txt" "${sp_include_root}" -- ${sp_foreign_flags})
add_test(NAME include_lines COMMAND ${sp_include_lines} ${sp_include_table} "${sp_fmt_flags}" COMMAND_EXPAND_LISTS)
set_tests_properties(include_lines PROPERTIES LABELS tree TIMEOUT 120 SKIP_RETURN_CODE 77)
add_test(NAME control.include_lines COMMAND ${sp_include_lines} --self-test ${sp_include_table} "${sp_fmt_flags}" COMMAND_EXPAND_LISTS)
set_tests_properties(control.include_lines PROPERTIES LABELS control TIMEOUT 60)

add_test(NAME layers COMMAND Python3::Interpreter "${sp_tools}/layers.py" "${sp_include_root}")
add_test(NAME control.layers COMMAND Python3::Interpreter "${sp_tools}/layers.py" --self-test)
add_test(NAME functions COMMAND Python3::Interpreter "${sp_tools}/functions.py" "${sp_include_root}")
add_test(NAME functions.examples COMMAND Python3::Interpreter "${sp_tools}/functions.py" "${PROJECT_SOURCE_DIR}/examples")
add_test(NAME control.functions COMMAND Python3::Interpreter "${sp_tools}/functions.py" --self-test)
add_test(NAME format COMMAND "${sp_tools}/format.sh")
set_tests_properties(layers functions functions.examples format PROPERTIES LABELS tree TIMEOUT 60)
set_tests_properties(control.layers control.functions PROPERTIES LABELS control TIMEOUT 60)

# All headers in one program, in both orders in two translation units.
set(sp_all "// Every header of sp; written by CMake.\n#pragma once\n")
set(sp_all_reversed "${sp_all}")
set(sp_names ${sp_headers})
if(sp_left_out_headers)
  list(FILTER sp_names EXCLUDE REGEX "(${sp_left_out_headers})$")
endif()
list(SORT sp_names)
foreach(header IN LISTS sp_names)
  cmake_path(RELATIVE_PATH header BASE_DIRECTORY "${sp_include_root}")
  string(APPEND sp_all "#include <${header}>\n")
endforeach()
list(REVERSE sp_names)
foreach(header IN LISTS sp_names)
  cmake_path(RELATIVE_PATH header BASE_DIRECTORY "${sp_include_root}")
  string(APPEND sp_all_reversed "#include <${header}>\n")
endforeach()
file(CONFIGURE OUTPUT generated/all_headers.hpp CONTENT "${sp_all}" @ONLY)
file(CONFIGURE OUTPUT generated/all_headers_reversed.hpp CONTENT "${sp_all_reversed}" @ONLY)

sp_program(two_tu two_tu/a.cpp two_tu/b.cpp)
target_include_directories(two_tu PRIVATE "${CMAKE_CURRENT_BINARY_DIR}/generated")
foreach(component IN LISTS sp_components)
  if(TARGET sp::${component})
    target_link_libraries(two_tu PRIVATE sp::${component})
  endif()
endforeach()
if(TARGET sp_pfr)
  target_link_libraries(two_tu PRIVATE sp_pfr)
endif()
add_test(NAME two_tu COMMAND two_tu)
set_tests_properties(two_tu PROPERTIES LABELS tree TIMEOUT 60)

# Translation units for different processors in one program: outside of the namespace of its target, code is the same text, and what
# both compute of a row has the same bits.
add_test(NAME targets COMMAND Python3::Interpreter "${sp_tools}/targets.py" --compiler "${SP_GXX}"
  "${CMAKE_CURRENT_SOURCE_DIR}/two_tu/a.cpp" "${sp_include_root}" --
  "-I${CMAKE_CURRENT_BINARY_DIR}/generated" ${sp_foreign_flags} "${sp_fmt_flags}" COMMAND_EXPAND_LISTS)
add_test(NAME control.targets COMMAND Python3::Interpreter "${sp_tools}/targets.py" --compiler "${SP_GXX}" --self-test)
set_tests_properties(targets PROPERTIES LABELS tree TIMEOUT 60)
set_tests_properties(control.targets PROPERTIES LABELS control TIMEOUT 60)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  sp_program(two_targets two_tu/targets.cpp two_tu/target_plain.cpp two_tu/target_fused.cpp)
  set_source_files_properties(two_tu/target_plain.cpp PROPERTIES COMPILE_OPTIONS "-O2;-mno-avx;-mno-fma")
  set_source_files_properties(two_tu/target_fused.cpp PROPERTIES COMPILE_OPTIONS "-O2;-mavx2;-mfma")
  add_test(NAME two_targets COMMAND two_targets)
  set_tests_properties(two_targets PROPERTIES LABELS tree TIMEOUT 60 SKIP_RETURN_CODE 77)
else()
  set_tests_properties(targets control.targets PROPERTIES DISABLED TRUE) # they name flags of x86
endif()

# Lint reads every header with SP_TEST_ALL; without, those for devices wait, which take four times as long as all others together.
set(sp_linted "${sp_all}")
if(NOT SP_TEST_ALL)
  string(REGEX REPLACE "#include <sp/[^>]*(cuda|cudnn|nccl)[^>]*>\n" "" sp_linted "${sp_all}")
endif()
file(CONFIGURE OUTPUT generated/linted/all_headers.hpp CONTENT "${sp_linted}" @ONLY)
find_program(SP_CLANG_TIDY NAMES clang-tidy-14 clang-tidy REQUIRED)
add_test(NAME tidy COMMAND "${sp_tools}/tidy.sh" "${SP_CLANG_TIDY}" "${CMAKE_CURRENT_SOURCE_DIR}/two_tu/a.cpp"
  -std=c++20 "-I${sp_include_root}" "-I${CMAKE_CURRENT_BINARY_DIR}/generated/linted" ${sp_foreign_flags} "${sp_fmt_flags}" COMMAND_EXPAND_LISTS)
set_tests_properties(tidy PROPERTIES LABELS tree TIMEOUT 600 COST 100)
