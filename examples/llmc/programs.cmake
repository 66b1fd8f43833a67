# The look-alike of llm.c's trainer, what the script makes of it for threads and for MPI, and the comparison of all of them.
# llm.c itself is compared where the environment variable SP_LLMC names its train_gpt2.c or its clone; otherwise that entry is skipped.
find_package(Python3 QUIET COMPONENTS Interpreter)
if(NOT Python3_FOUND)
  return()
endif()
set(sp_llmc_folder "${CMAKE_CURRENT_LIST_DIR}")
set(sp_llmc_source "${sp_llmc_folder}/look_alike.c")
set(sp_llmc_script "${sp_llmc_folder}/sequence_parallel.py")
set(sp_llmc_check Python3::Interpreter "${PROJECT_SOURCE_DIR}/tests/tools/llmc_check.py")

sp_program(llmc_look_alike "${sp_llmc_source}")
set_source_files_properties("${sp_llmc_source}" PROPERTIES LANGUAGE CXX
  COMPILE_OPTIONS -Wno-sign-compare) # llm.c's habit, which the script looks for; behind all other flags, of which clang heeds the last

# sp_llmc_made(<target> <option of the script>...): the program that the script makes of the look-alike.
function(sp_llmc_made target)
  set(made "${CMAKE_CURRENT_BINARY_DIR}/${target}.cpp")
  add_custom_command(OUTPUT "${made}" DEPENDS "${sp_llmc_script}" "${sp_llmc_source}" VERBATIM
    COMMAND Python3::Interpreter "${sp_llmc_script}" ${ARGN} --out "${made}" "${sp_llmc_source}")
  sp_program(${target} "${made}")
  target_include_directories(${target} PRIVATE "${sp_llmc_folder}")
endfunction()

sp_llmc_made(llmc_look_alike_sp)
add_test(NAME example.llmc COMMAND ${sp_llmc_check} --plain "$<TARGET_FILE:llmc_look_alike>" --made "$<TARGET_FILE:llmc_look_alike_sp>"
  --out "${PROJECT_BINARY_DIR}/llmc-test")
set(sp_llmc_start "")
set(sp_llmc_entries example.llmc example.llmc_real)
if(TARGET sp::mpi)
  include("${PROJECT_SOURCE_DIR}/cmake/SpMpirun.cmake")
  set(sp_llmc_start -- ${sp_mpirun})
  sp_llmc_made(llmc_look_alike_sp_mpi --mpi)
  target_link_libraries(llmc_look_alike_sp_mpi PRIVATE sp::mpi)
  add_test(NAME example.llmc_mpi COMMAND ${sp_llmc_check} --plain "$<TARGET_FILE:llmc_look_alike>"
    --made "$<TARGET_FILE:llmc_look_alike_sp_mpi>" --out "${PROJECT_BINARY_DIR}/llmc-mpi-test" ${sp_llmc_start})
  list(APPEND sp_llmc_entries example.llmc_mpi)
endif()
add_test(NAME example.llmc_real COMMAND ${sp_llmc_check} --real --sources "${sp_llmc_folder}"
  --out "${PROJECT_BINARY_DIR}/llmc-real-test" ${sp_llmc_start})
set_tests_properties(${sp_llmc_entries} PROPERTIES LABELS example TIMEOUT 300 PROCESSORS 2 SKIP_RETURN_CODE 77 COST 200)
set_tests_properties(example.llmc_real PROPERTIES TIMEOUT 900)
add_test(NAME control.llmc COMMAND ${sp_llmc_check} --self-test --sources "${sp_llmc_folder}")
set_tests_properties(control.llmc PROPERTIES LABELS control TIMEOUT 60)

# The pages: links lead somewhere, what they show of the header and of the script is there.
add_test(NAME docs.llmc COMMAND Python3::Interpreter "${PROJECT_SOURCE_DIR}/tests/tools/snippets.py" --compiler "${CMAKE_CXX_COMPILER}"
  --snippets "${sp_llmc_folder}" --out "${PROJECT_BINARY_DIR}/llmc-pages" "${sp_llmc_folder}/README.md")
add_test(NAME docs.llmc_pages COMMAND ${sp_llmc_check} --pages --sources "${sp_llmc_folder}")
set_tests_properties(docs.llmc docs.llmc_pages PROPERTIES LABELS docs TIMEOUT 60)
