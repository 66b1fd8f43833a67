# Install rules: the headers, the packages that find_package(sp CONFIG) and pkg-config find, the licence, tools and the single header.
# Nothing that is installed names a folder of this machine: the prefix may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# share and not lib: a header-only package is the same on every architecture
set(sp_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/sp")
set(sp_pc_dir "${CMAKE_INSTALL_DATADIR}/pkgconfig")
set(sp_data_dir "${CMAKE_INSTALL_DATADIR}/sp")

install(TARGETS sp EXPORT sp-targets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT sp-targets NAMESPACE sp:: DESTINATION "${sp_package_dir}")

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/sp-config.cmake.in" "${PROJECT_BINARY_DIR}/sp-config.cmake"
  INSTALL_DESTINATION "${sp_package_dir}" NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/sp-config-version.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT) # until 1.0 a minor version may change interfaces
install(FILES "${PROJECT_BINARY_DIR}/sp-config.cmake" "${PROJECT_BINARY_DIR}/sp-config-version.cmake"
  DESTINATION "${sp_package_dir}")
foreach(name IN LISTS sp_components)
  install(FILES "${PROJECT_SOURCE_DIR}/cmake/sp-component-${name}.cmake" DESTINATION "${sp_package_dir}")
endforeach()

file(RELATIVE_PATH sp_pc_to_prefix "/prefix/${sp_pc_dir}" "/prefix")
string(REGEX REPLACE "/$" "" sp_pc_to_prefix "${sp_pc_to_prefix}")
configure_file("${PROJECT_SOURCE_DIR}/cmake/sp.pc.in" "${PROJECT_BINARY_DIR}/sp.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/sp.pc" DESTINATION "${sp_pc_dir}")

install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${sp_data_dir}")
file(GLOB sp_user_tools CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/examples/tools/*.py") # what users run: they need Python, nothing else
install(PROGRAMS ${sp_user_tools} DESTINATION "${sp_data_dir}/tools")

# The single header is written while installing, from the headers as they are then: it cannot be out of date.
find_package(Python3 QUIET COMPONENTS Interpreter)
option(SP_INSTALL_SINGLE_HEADER "Install the amalgamated header as well; needs Python 3" ${Python3_Interpreter_FOUND})
if(SP_INSTALL_SINGLE_HEADER)
  if(NOT Python3_Interpreter_FOUND)
    message(FATAL_ERROR "sp: SP_INSTALL_SINGLE_HEADER is ON, but there is no Python 3 that could write the header")
  endif()
  install(CODE "execute_process(COMMAND_ERROR_IS_FATAL ANY COMMAND \"${Python3_EXECUTABLE}\" \
\"${PROJECT_SOURCE_DIR}/cmake/amalgamate.py\" \"${PROJECT_SOURCE_DIR}/include\" \"${PROJECT_BINARY_DIR}/single/sp.hpp\")")
  install(FILES "${PROJECT_BINARY_DIR}/single/sp.hpp" DESTINATION "${sp_data_dir}/single")
endif()
