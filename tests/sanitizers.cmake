# Sanitizers: a source with "[asan]" or "[tsan]" in the name of a test case is built a second time with -fsanitize=..., and
# the entry <layer>.<name>.asan or .tsan runs exactly the cases that carry the tag. Nothing to list anywhere else.
# SP_TEST_SANITIZED is defined in these builds, so that a file can leave out the instantiations that no tagged case uses.
if(NOT SP_TEST_SANITIZERS)
  return()
endif()

# Without optimisation: it halves the time to compile, and nothing is optimised away before it can be checked.
set(sp_asan_flags -O0 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
set(sp_tsan_flags -fsanitize=thread -fno-omit-frame-pointer -g1)
set(sp_asan_environment "ASAN_OPTIONS=detect_stack_use_after_return=1;UBSAN_OPTIONS=print_stacktrace=1")
set(sp_tsan_environment "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1")

foreach(kind asan tsan)
  add_library(sp_test_main_${kind} OBJECT main.cpp)
  target_link_libraries(sp_test_main_${kind} PRIVATE doctest::doctest sp_program_settings)
  target_include_directories(sp_test_main_${kind} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_options(sp_test_main_${kind} PRIVATE ${sp_${kind}_flags})

  sp_program(control.planted.${kind} controls/planted.cpp)
  target_compile_options(control.planted.${kind} PRIVATE ${sp_${kind}_flags})
  target_link_options(control.planted.${kind} PRIVATE ${sp_${kind}_flags})
endforeach()

foreach(source IN LISTS sp_test_sources)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${source}") # a new tag must not be missed
  cmake_path(GET source PARENT_PATH folder)
  cmake_path(GET folder FILENAME layer)
  cmake_path(GET source STEM stem)
  string(REGEX REPLACE "^test_" "" stem "${stem}")
  foreach(kind asan tsan)
    file(READ "${source}" text)
    string(FIND "${text}" "[${kind}]" tagged)
    if(tagged GREATER_EQUAL 0)
      set(name ${layer}.${stem}.${kind})
      sp_test_program(${name} sp_test_main_${kind} "${source}")
      target_compile_options(${name} PRIVATE ${sp_${kind}_flags})
      target_link_options(${name} PRIVATE ${sp_${kind}_flags})
      target_compile_definitions(${name} PRIVATE SP_TEST_SANITIZED)
      sp_test_entry(${name} "${source}" "${layer};sanitize" 600
        "${sp_tools}/fixed_addresses.sh" $<TARGET_FILE:${name}> "--test-case=*[${kind}]*")
      set_tests_properties(${name} PROPERTIES ENVIRONMENT "${sp_${kind}_environment}")
    endif()
  endforeach()
endforeach()

# sp_sanitizer_control(<kind> <argument> <report>): the sanitizer finds the planted error.
function(sp_sanitizer_control kind argument report)
  add_test(NAME control.${kind}.${argument} COMMAND "${sp_tools}/must_fail.sh" "${report}"
    "${sp_tools}/fixed_addresses.sh" $<TARGET_FILE:control.planted.${kind}> ${argument})
  set_tests_properties(control.${kind}.${argument} PROPERTIES LABELS "control;sanitize" TIMEOUT 60
    ENVIRONMENT "${sp_${kind}_environment}")
endfunction()
sp_sanitizer_control(asan address "AddressSanitizer: heap-buffer-overflow")
sp_sanitizer_control(asan undefined "runtime error: signed integer overflow")
sp_sanitizer_control(tsan race "ThreadSanitizer: data race")
