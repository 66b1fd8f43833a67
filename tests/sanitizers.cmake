# Sanitizers: a source with "[asan]" or "[tsan]" in the name of a test case is built a second time with -fsanitize=..., and
# the entry <layer>.<name>.asan or .tsan runs exactly the cases that carry the tag. Nothing to list anywhere else.
# Each sanitizer has one program per layer, test_<layer>_asan and _tsan; without SP_TEST_ALL only what is named here.
# SP_TEST_SANITIZED is defined in these builds, so that a file can leave out the instantiations that no tagged case uses.
if(NOT SP_TEST_SANITIZERS)
  return()
endif()

set(sp_asan_layers core geometry backend) # where memory is indexed
set(sp_tsan_layers core collective)       # where threads of a rank meet, and ranks
# Without SP_TEST_ALL kernels of a device run sanitized only, and alone of their layer: they need no runtime.
set(sp_asan_kernels "${CMAKE_CURRENT_SOURCE_DIR}/cuda/test_cuda_flash.cpp")
if(NOT SP_TEST_ALL AND NOT sp_test_missing_context)
  list(APPEND sp_asan_layers cuda)
  set(sp_test_sources_cuda ${sp_asan_kernels})
  set(sp_test_libraries_cuda Boost::context)
endif()

# Without optimisation: it halves the time to compile, and nothing is optimised away before it can be checked.
set(sp_asan_flags -O0 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
set(sp_tsan_flags -O0 -fsanitize=thread -fno-omit-frame-pointer -g1)
set(sp_asan_environment "ASAN_OPTIONS=detect_stack_use_after_return=1;UBSAN_OPTIONS=print_stacktrace=1")
set(sp_tsan_environment "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1")
if(SP_TEST_ALL)
  list(APPEND sp_asan_environment "SP_TEST_WIDE=1")
endif()

# sp_sanitized(<target> <kind>): compiled and linked with the sanitizer, by clang whatever compiles the rest: in half the time of g++.
function(sp_sanitized target kind)
  target_compile_options(${target} PRIVATE ${sp_${kind}_flags})
  target_link_options(${target} PRIVATE ${sp_${kind}_flags})
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set_target_properties(${target} PROPERTIES CXX_COMPILER_LAUNCHER "${sp_tools}/by_compiler.sh;${SP_CLANGXX}"
      RULE_LAUNCH_LINK "${sp_tools}/by_compiler.sh ${SP_CLANGXX}")
  endif()
endfunction()

foreach(kind asan tsan)
  sp_test_main_library(sp_test_main_${kind} main.cpp)
  sp_sanitized(sp_test_main_${kind} ${kind})
  sp_program(control.planted.${kind} controls/planted.cpp)
  sp_sanitized(control.planted.${kind} ${kind})
endforeach()

foreach(kind asan tsan)
  if(SP_TEST_ALL)
    set(sp_${kind}_layers ${sp_test_layers})
  endif()
  foreach(layer IN LISTS sp_${kind}_layers)
    set(tagged "")
    foreach(source IN LISTS sp_test_sources_${layer})
      file(READ "${source}" text)
      string(FIND "${text}" "[${kind}]" found)
      if(found GREATER_EQUAL 0)
        list(APPEND tagged "${source}")
        sp_test_name(layer name "${source}")
        sp_test_entry(${layer}.${name}.${kind} "${source}" "${layer};sanitize" 600
          "${sp_tools}/fixed_addresses.sh" $<TARGET_FILE:test_${layer}_${kind}> "--test-case=*[${kind}]*")
        set_tests_properties(${layer}.${name}.${kind} PROPERTIES ENVIRONMENT "${sp_${kind}_environment}")
      endif()
    endforeach()
    if(tagged)
      sp_test_program(test_${layer}_${kind} sp_test_main_${kind} ${tagged})
      target_link_libraries(test_${layer}_${kind} PRIVATE ${sp_test_libraries_${layer}})
      sp_sanitized(test_${layer}_${kind} ${kind})
      target_compile_definitions(test_${layer}_${kind} PRIVATE SP_TEST_SANITIZED)
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
