# Install rules: the headers, and a package that find_package(sp CONFIG) finds wherever the prefix is moved to.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(sp_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/sp") # share: a header-only package is the same on every architecture

install(TARGETS sp EXPORT sp-targets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT sp-targets NAMESPACE sp:: DESTINATION "${sp_package_dir}")

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/sp-config.cmake.in" "${PROJECT_BINARY_DIR}/sp-config.cmake"
  INSTALL_DESTINATION "${sp_package_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/sp-config-version.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT) # until 1.0 a minor version may change interfaces
install(FILES "${PROJECT_BINARY_DIR}/sp-config.cmake" "${PROJECT_BINARY_DIR}/sp-config-version.cmake"
  DESTINATION "${sp_package_dir}")
