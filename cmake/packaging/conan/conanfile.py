"""Conan 2 recipe of sp: packages the sources of the clone it lies in, with the CMake package and the pkg-config file of sp itself.
conan create cmake/packaging/conan; consumers write find_package(sp CONFIG REQUIRED), and COMPONENTS cuda, cudnn, mpi or nccl where they have it.
"""
import pathlib
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy

required_conan_version = ">=2.0"


class SpAttention(ConanFile):
    name = "sp-attention"
    description = "Sequence-parallel attention for C++ trainers, header-only"
    license = "Apache-2.0"
    topics = ("attention", "sequence-parallel", "training", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    def _tree(self):
        return pathlib.Path(self.recipe_folder).parents[2]

    def set_version(self):
        text = (self._tree() / "include/sp/version.hpp").read_text()
        self.version = ".".join(re.findall(r"^#define SP_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", text, re.MULTILINE))

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "include/*", "cmake/*", "examples/tools/*"):
            copy(self, pattern, src=str(self._tree()), dst=self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def validate(self):
        check_min_cppstd(self, 20)

    def package_id(self):
        self.info.clear()

    def generate(self):
        toolchain = CMakeToolchain(self)
        for option in ("SP_BUILD_TESTS", "SP_BUILD_EXAMPLES", "SP_BUILD_BENCH", "SP_CUDA", "SP_CUDNN", "SP_MPI", "SP_NCCL", "SP_INSTALL_SINGLE_HEADER"):
            toolchain.cache_variables[option] = False
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", src=self.source_folder, dst=str(pathlib.Path(self.package_folder) / "licenses"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.builddirs = ["share/cmake/sp"]
        self.cpp_info.set_property("cmake_find_mode", "none")  # the package brings its own sp-config.cmake, components included
        self.cpp_info.set_property("pkg_config_name", "sp")
