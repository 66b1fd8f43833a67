# Refused code: every tests/compile_fail/<name>.cpp is compiled with SP_FAIL, where the compiler must print the expected sentence, and
# with SP_TEST_ALL also without, where it must compile: see tools/compile_fail.py. Sentences of ours are the same whoever prints them,
# so the compilers take turns; with SP_TEST_ALL, and where a compiler's own words count, both do it.
file(GLOB sp_refusals CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/compile_fail/*.cpp")
set(sp_refusals_by_gcc "")
set(sp_refusals_by_clang "")
set(sp_turn gcc clang)
set(sp_refused_only "")
if(NOT SP_TEST_ALL) # half of the time, to see again that the rest of a file is good code
  set(sp_refused_only --refused-only)
endif()
foreach(source IN LISTS sp_refusals)
  file(STRINGS "${source}" own_words REGEX "^// EXPECT-(GCC|CLANG): " LIMIT_COUNT 1)
  if(SP_TEST_ALL OR own_words)
    set(by gcc clang)
  else()
    list(GET sp_turn 0 by)
    list(REVERSE sp_turn)
  endif()
  foreach(kind IN LISTS by)
    list(APPEND sp_refusals_by_${kind} "${source}")
  endforeach()
endforeach()
foreach(pair "gcc=${SP_GXX}" "clang=${SP_CLANGXX}")
  string(REPLACE "=" ";" pair "${pair}")
  list(POP_FRONT pair kind compiler)
  set(refuse Python3::Interpreter "${sp_tools}/compile_fail.py" --compiler "${compiler}" --include "${PROJECT_SOURCE_DIR}/include"
    --include "${CMAKE_CURRENT_SOURCE_DIR}" --prelude "${CMAKE_CURRENT_BINARY_DIR}/compile_fail/${kind}")
  add_test(NAME compile_fail.prelude.${kind} COMMAND ${refuse} --precompile "${CMAKE_CURRENT_SOURCE_DIR}/compile_fail/prelude.hpp")
  set_tests_properties(compile_fail.prelude.${kind} PROPERTIES LABELS compile_fail TIMEOUT 120 COST 100 FIXTURES_SETUP sp_prelude_${kind})
  foreach(source IN LISTS sp_refusals_by_${kind})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${source}") # what it expects decides who compiles it
    cmake_path(GET source STEM stem)
    add_test(NAME compile_fail.${stem}.${kind} COMMAND ${refuse} ${sp_refused_only} "${source}")
    set_tests_properties(compile_fail.${stem}.${kind} PROPERTIES LABELS compile_fail TIMEOUT 120 FIXTURES_REQUIRED sp_prelude_${kind})
  endforeach()
endforeach()

# The harness, tested through what it precompiled:
add_test(NAME control.compile_fail.prelude COMMAND "${sp_tools}/must_fail.sh" "the code under SP_FAIL compiles"
  "${Python3_EXECUTABLE}" "${sp_tools}/compile_fail.py" --compiler "${SP_GXX}" --include "${PROJECT_SOURCE_DIR}/include"
  --include "${CMAKE_CURRENT_SOURCE_DIR}" --prelude "${CMAKE_CURRENT_BINARY_DIR}/compile_fail/gcc"
  "${CMAKE_CURRENT_SOURCE_DIR}/controls/compile_fail_accepted.cpp")
set_tests_properties(control.compile_fail.prelude PROPERTIES LABELS control TIMEOUT 60 FIXTURES_REQUIRED sp_prelude_gcc)

# The harness, tested: code that compiles, another sentence, and a broken control build are all noticed.
foreach(control "accepted=the code under SP_FAIL compiles" "other_sentence=not said: heads are uneven"
    "broken=the control build fails")
  string(REPLACE "=" ";" pair "${control}")
  list(POP_FRONT pair stem complaint)
  add_test(NAME control.compile_fail.${stem} COMMAND "${sp_tools}/must_fail.sh" "${complaint}"
    "${Python3_EXECUTABLE}" "${sp_tools}/compile_fail.py" --compiler "${SP_GXX}"
    "${CMAKE_CURRENT_SOURCE_DIR}/controls/compile_fail_${stem}.cpp")
  set_tests_properties(control.compile_fail.${stem} PROPERTIES LABELS control TIMEOUT 60)
endforeach()
