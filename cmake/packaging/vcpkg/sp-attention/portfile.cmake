# vcpkg port of sp, as an overlay port: it installs the sources of the clone it lies in.
# vcpkg install sp-attention --overlay-ports=path/to/sp/cmake/packaging/vcpkg
set(VCPKG_BUILD_TYPE release) # header-only: a debug build would install the same files

# In a registry, a vcpkg_from_github or vcpkg_from_git call sets SOURCE_PATH in place of this line.
get_filename_component(SOURCE_PATH "${CURRENT_PORT_DIR}/../../../.." ABSOLUTE)

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -DSP_BUILD_TESTS=OFF
    -DSP_BUILD_EXAMPLES=OFF
    -DSP_BUILD_BENCH=OFF
    -DSP_CUDA=OFF # a component is looked for when a consumer asks for it
    -DSP_CUDNN=OFF
    -DSP_MPI=OFF
    -DSP_NCCL=OFF
    -DSP_INSTALL_SINGLE_HEADER=OFF
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME sp CONFIG_PATH share/cmake/sp)
vcpkg_fixup_pkgconfig()

file(REMOVE "${CURRENT_PACKAGES_DIR}/share/sp/LICENSE") # vcpkg has a name of its own for it
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
