# Consumers: a small project outside the tree uses sp as installed and moved elsewhere, and as a subdirectory.
# Each runs in an empty folder of the build tree; tools/consumer.sh does the steps.
foreach(kind find_package add_subdirectory)
  add_test(NAME consumer.${kind} COMMAND "${sp_tools}/consumer.sh" ${kind} "${CMAKE_COMMAND}" "${CMAKE_CXX_COMPILER}"
    "${CMAKE_CURRENT_SOURCE_DIR}/consumers" "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}")
  set_tests_properties(consumer.${kind} PROPERTIES LABELS consumer TIMEOUT 300 COST 50)
endforeach()
