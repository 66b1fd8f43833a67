# The reference manual: Doxygen over the public headers, without a warning, and with a comment on every public name.
# Its pages are in the build folder, tests/manual/html. Without doxygen the entries are reported as not run.
find_program(SP_DOXYGEN doxygen)
foreach(name docs.manual control.docs.manual)
  if(SP_DOXYGEN)
    set(sp_manual_arguments --include "${PROJECT_SOURCE_DIR}/include" --out "${CMAKE_CURRENT_BINARY_DIR}/manual")
    if(name STREQUAL "control.docs.manual")
      set(sp_manual_arguments --self-test --out "${CMAKE_CURRENT_BINARY_DIR}/manual_control")
    endif()
    add_test(NAME ${name} COMMAND Python3::Interpreter "${sp_tools}/manual.py" --doxygen "${SP_DOXYGEN}"
      --settings "${PROJECT_SOURCE_DIR}/docs/Doxyfile.in" --version "${PROJECT_VERSION}" ${sp_manual_arguments})
  else()
    add_test(NAME ${name} COMMAND "${CMAKE_COMMAND}" -E echo "not run: doxygen is not installed")
    set_tests_properties(${name} PROPERTIES SKIP_REGULAR_EXPRESSION "not run: ")
  endif()
endforeach()
set_tests_properties(docs.manual PROPERTIES LABELS docs TIMEOUT 120)
set_tests_properties(control.docs.manual PROPERTIES LABELS control TIMEOUT 60)
