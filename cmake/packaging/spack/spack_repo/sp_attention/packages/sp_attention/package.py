# Spack package of sp, for the clone it lies in: spack install sp-attention, or spack dev-build sp-attention@0.1.0 in the root.
# Header-only; variants cuda, cudnn, mpi and nccl bring CUDA, cuDNN, an MPI and NCCL for consumers that ask for the component of that name.
import pathlib

from spack_repo.builtin.build_systems.cmake import CMakePackage

from spack.package import *


class SpAttention(CMakePackage):
    """Sequence-parallel attention for C++ trainers, header-only."""

    git = pathlib.Path(__file__).resolve().parents[7].as_uri()  # in a registry: the address of the repository

    license("Apache-2.0")

    version("0.1.0", branch="main")  # in a registry: tag and commit

    variant("cuda", default=False, description="Objects on CUDA devices: target sp::cuda")
    variant("cudnn", default=False, description="Attention by cuDNN: target sp::cudnn, which also needs cudnn-frontend")
    variant("mpi", default=False, description="Ranks that are MPI processes: target sp::mpi")
    variant("nccl", default=False, description="Ranks on several GPUs: target sp::nccl")

    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("cuda@13:", when="+cuda")
    depends_on("cuda@13:", when="+cudnn")
    depends_on("cudnn@9.19:", when="+cudnn")
    depends_on("cuda@13:", when="+nccl")
    depends_on("nccl@2.8:", when="+nccl")
    depends_on("mpi", when="+mpi")

    conflicts("%gcc@:11", msg="sp needs g++ 12 or later")
    conflicts("%clang@:15", msg="sp needs clang 16 or later")

    def cmake_args(self):
        return [
            self.define("SP_BUILD_TESTS", False),
            self.define("SP_BUILD_EXAMPLES", False),
            self.define("SP_BUILD_BENCH", False),
            self.define("SP_INSTALL_SINGLE_HEADER", False),
            self.define("SP_CUDA", "ON" if self.spec.satisfies("+cuda") else "OFF"),
            self.define("SP_CUDNN", "OFF"),  # its headers of cudnn-frontend are the consumer's: SP_CUDNN_FRONTEND_DIR
            self.define("SP_MPI", "ON" if self.spec.satisfies("+mpi") else "OFF"),
            self.define("SP_NCCL", "ON" if self.spec.satisfies("+nccl") else "OFF"),
        ]
