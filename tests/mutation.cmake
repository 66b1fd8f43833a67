# The tests, tested: hand-made bugs are put into a copy of the headers, and each must be caught.
# tests/mutation.sh does the work, with programs of its own compilation: quick to build, whatever this preset is for. A sample of
# bugs is planted, to keep the run short; with SP_TEST_ALL, and by tests/mutation.sh itself, all of them.
set(sp_mutation_sample --sample)
if(SP_TEST_ALL)
  set(sp_mutation_sample "")
endif()
set(sp_doctest_folders "$<FILTER:$<TARGET_PROPERTY:doctest::doctest,INTERFACE_INCLUDE_DIRECTORIES>,EXCLUDE,^/usr/include$>")
add_test(NAME mutation.score COMMAND "${CMAKE_COMMAND}" -E env "CXX=${SP_CLANGXX}" "${CMAKE_CURRENT_SOURCE_DIR}/mutation.sh"
  ${sp_mutation_sample} --jobs 2 --build "${CMAKE_CURRENT_BINARY_DIR}/mutation" "$<$<BOOL:${sp_doctest_folders}>:--flag=-isystem$<JOIN:${sp_doctest_folders},;--flag=-isystem>>"
  COMMAND_EXPAND_LISTS)
set_tests_properties(mutation.score PROPERTIES LABELS mutation TIMEOUT 2400 PROCESSORS 2 COST 1000)
add_test(NAME control.mutation COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/mutation.sh" --self-test)
set_tests_properties(control.mutation PROPERTIES LABELS control TIMEOUT 120)
