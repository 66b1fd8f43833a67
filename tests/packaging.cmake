# Packages: recipes and version agree, the single header is made as promised, and old compilers are refused with a sentence.
# Package managers themselves run where they are installed; consumers.cmake is where installed trees are used.
add_test(NAME packaging.lint COMMAND Python3::Interpreter "${sp_tools}/packages.py" "${PROJECT_SOURCE_DIR}")
add_test(NAME control.packaging.lint COMMAND Python3::Interpreter "${sp_tools}/packages.py" --self-test "${PROJECT_SOURCE_DIR}")
add_test(NAME control.single_header COMMAND Python3::Interpreter "${PROJECT_SOURCE_DIR}/cmake/amalgamate.py" --self-test)
set_tests_properties(packaging.lint PROPERTIES LABELS packaging TIMEOUT 60)
set_tests_properties(control.packaging.lint control.single_header PROPERTIES LABELS control TIMEOUT 60)

# sp_packager(<kind>): the entry packaging.<kind> makes the package with the real program, and is reported as not run without it.
function(sp_packager kind)
  find_program(SP_${kind} ${kind})
  if(SP_${kind})
    add_test(NAME packaging.${kind} COMMAND "${sp_tools}/packager.sh" ${kind} "${SP_${kind}}" "${PROJECT_SOURCE_DIR}" "${SP_GXX}")
  else()
    add_test(NAME packaging.${kind} COMMAND "${CMAKE_COMMAND}" -E echo "not run: ${kind} is not installed")
    set_tests_properties(packaging.${kind} PROPERTIES SKIP_REGULAR_EXPRESSION "not run: ")
  endif()
  set_tests_properties(packaging.${kind} PROPERTIES LABELS packaging TIMEOUT 300)
endfunction()
sp_packager(conan)
sp_packager(vcpkg)

# sp_refused_compiler(<name> <sentence> <compiler and flags>...): the header that everybody reaches says why. Other versions are
# played by their macros: nothing but the preprocessor is asked.
function(sp_refused_compiler name sentence)
  add_test(NAME compiler.${name} COMMAND "${sp_tools}/must_fail.sh" "${sentence}" ${ARGN} -E -x c++
    "${PROJECT_SOURCE_DIR}/include/sp/core/compiler.hpp")
  set_tests_properties(compiler.${name} PROPERTIES LABELS packaging TIMEOUT 60)
endfunction()
sp_refused_compiler(gcc_cxx17 "sp needs C++20" "${SP_GXX}" -std=c++17)
sp_refused_compiler(clang_cxx17 "sp needs C++20" "${SP_CLANGXX}" -std=c++17)
sp_refused_compiler(gcc_11 "sp needs g++ 12 or later" "${SP_GXX}" -std=c++20 -U__GNUC__ -D__GNUC__=11)
sp_refused_compiler(clang_15 "sp needs clang 16 or later" "${SP_CLANGXX}" -std=c++20 -U__clang_major__ -D__clang_major__=15)
sp_refused_compiler(unknown "sp knows g++ and clang only" "${SP_GXX}" -std=c++20 -U__GNUC__)
