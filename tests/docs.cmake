# Documentation that is true: every ```cpp snippet of the pages in the root and in docs/ is compiled and run, see tools/snippets.py.
# What a page says that a snippet prints is compared, and links inside the repository lead somewhere.
file(GLOB sp_pages CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/*.md" "${PROJECT_SOURCE_DIR}/docs/*.md")
set(sp_snippets Python3::Interpreter "${sp_tools}/snippets.py" --include "${PROJECT_SOURCE_DIR}/include"
  --snippets "${PROJECT_SOURCE_DIR}/docs/snippets")

# What snippets include is compiled once for all of them; with SP_TEST_ALL it is seen that each includes what it uses.
set(sp_snippets_read "")
if(NOT SP_TEST_ALL)
  set(sp_snippets_read --precompiled "${CMAKE_CURRENT_BINARY_DIR}/snippets/headers.pch")
  add_test(NAME docs.headers COMMAND ${sp_snippets} --compiler "${SP_CLANGXX}" ${sp_snippets_read} --precompile
    "${CMAKE_CURRENT_SOURCE_DIR}/docs/headers.hpp")
  set_tests_properties(docs.headers PROPERTIES LABELS docs TIMEOUT 120 COST 100 FIXTURES_SETUP sp_snippets_read)
endif()

# sp_page(<entry> <page> <compiler>)
function(sp_page entry page compiler)
  add_test(NAME ${entry} COMMAND ${sp_snippets} --compiler "${compiler}" ${sp_snippets_read} --out "${CMAKE_CURRENT_BINARY_DIR}/snippets/${entry}" "${page}")
  set_tests_properties(${entry} PROPERTIES LABELS docs TIMEOUT 300 COST 30 FIXTURES_REQUIRED sp_snippets_read)
endfunction()

foreach(page IN LISTS sp_pages) # by clang, which takes two thirds of the time; what newcomers read by both with SP_TEST_ALL
  cmake_path(GET page STEM stem)
  sp_page(docs.${stem} "${page}" "${SP_CLANGXX}")
  if(SP_TEST_ALL AND stem MATCHES "^(README|guide)$")
    sp_page(docs.${stem}.gcc "${page}" "${SP_GXX}")
  endif()
endforeach()

# The checker, checked: a snippet that does not compile, one that fails, a wrong output and a dead link are all noticed.
foreach(control "compile=does not compile" "exit=ends with 3" "output=instead of" "link=dead link nowhere.md")
  string(REPLACE "=" ";" pair "${control}")
  list(POP_FRONT pair stem complaint)
  add_test(NAME control.docs.${stem} COMMAND "${sp_tools}/must_fail.sh" "${complaint}" "${Python3_EXECUTABLE}"
    "${sp_tools}/snippets.py" --compiler "${SP_GXX}" --snippets "${CMAKE_CURRENT_SOURCE_DIR}/docs"
    --out "${CMAKE_CURRENT_BINARY_DIR}/snippets" "${CMAKE_CURRENT_SOURCE_DIR}/docs/${stem}.md")
  set_tests_properties(control.docs.${stem} PROPERTIES LABELS control TIMEOUT 60)
endforeach()

# The pictures are what their script draws.
add_test(NAME docs.pictures COMMAND Python3::Interpreter "${PROJECT_SOURCE_DIR}/docs/pictures/draw.py" --check)
set_tests_properties(docs.pictures PROPERTIES LABELS docs TIMEOUT 60)
