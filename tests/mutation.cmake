# The tests, tested: hand-made bugs are put into a copy of the headers, and each must be caught.
# tests/mutation.sh does the work, with programs of its own compilation: quick to build, whatever this preset is for. Here every second
# bug is planted, to keep the run short; tests/mutation.sh by itself plants all of them.
set(sp_doctest_folders "$<FILTER:$<TARGET_PROPERTY:doctest::doctest,INTERFACE_INCLUDE_DIRECTORIES>,EXCLUDE,^/usr/include$>")
add_test(NAME mutation.score COMMAND "${CMAKE_COMMAND}" -E env "CXX=${SP_CLANGXX}" "${CMAKE_CURRENT_SOURCE_DIR}/mutation.sh"
  --every 2 --jobs 2 --build "${CMAKE_CURRENT_BINARY_DIR}/mutation" "$<$<BOOL:${sp_doctest_folders}>:--flag=-isystem$<JOIN:${sp_doctest_folders},;--flag=-isystem>>"
  COMMAND_EXPAND_LISTS)
set_tests_properties(mutation.score PROPERTIES LABELS mutation TIMEOUT 1500 PROCESSORS 2 COST 1000)
add_test(NAME control.mutation COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/mutation.sh" --self-test)
set_tests_properties(control.mutation PROPERTIES LABELS control TIMEOUT 120)
