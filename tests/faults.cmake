# Faults: on ranks that are threads, on real processes that are killed, stopped or leave, and models of the schedules.
# All carry the label fault; the list of faults F1 to F15 is in docs/reliability.md, F9 is the label sanitize.

# Programs are found like any others (doctest.cmake, mpi.cmake) and carry their layer's name; what is a fault is said here.
file(GLOB sp_fault_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/faults/test_*.cpp"
  "${CMAKE_CURRENT_SOURCE_DIR}/schedules/test_*.cpp" "${CMAKE_CURRENT_SOURCE_DIR}/*/test_*faults.cpp")
foreach(name checks/test_mismatch checks/test_checksummed checks/test_guarded conformance/test_guards incidents/test_errors mpi/test_conformance)
  list(APPEND sp_fault_sources "${CMAKE_CURRENT_SOURCE_DIR}/${name}.cpp")
endforeach()
foreach(source IN LISTS sp_fault_sources)
  sp_test_name(layer stem "${source}")
  foreach(name ${layer}.${stem} ${layer}.${stem}.asan ${layer}.${stem}.tsan)
    if(TEST ${name})
      set_property(TEST ${name} APPEND PROPERTY LABELS fault)
    endif()
  endforeach()
endforeach()

# The models, by spin: every order of the processes of up to three ranks, with SP_TEST_ALL of five.
add_test(NAME models COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/models/check.sh" $<$<BOOL:${SP_TEST_ALL}>:--all> COMMAND_EXPAND_LISTS)
set_tests_properties(models PROPERTIES LABELS "model;fault" TIMEOUT 900 SKIP_RETURN_CODE 77 COST 60)

# One job after another, measured from outside.
if(NOT TARGET sp::mpi)
  add_test(NAME faults.processes COMMAND "${CMAKE_COMMAND}" -E echo "skipped: no MPI was found when this tree was configured")
  set_tests_properties(faults.processes PROPERTIES LABELS fault SKIP_REGULAR_EXPRESSION "skipped: no MPI")
  return()
endif()
sp_program(faults.worker faults/worker.cpp)
target_link_libraries(faults.worker PRIVATE sp::mpi)
target_include_directories(faults.worker PRIVATE "${PROJECT_SOURCE_DIR}/tests")
foreach(group control f1_throw f2_late f3_mismatch f4_delays f5_abort f7_messages f10_kill f11_stop f12_leave)
  add_test(NAME faults.processes.${group} COMMAND Python3::Interpreter "${CMAKE_CURRENT_SOURCE_DIR}/faults/processes.py" --only ${group}
    $<TARGET_FILE:faults.worker> "${MPIEXEC_EXECUTABLE}" ${sp_mpi_flags})
  set_tests_properties(faults.processes.${group} PROPERTIES LABELS fault TIMEOUT 180 COST 200) # one processor: its ranks wait
endforeach()
