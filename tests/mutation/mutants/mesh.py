# Bugs planted in: mesh.
from mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        "mesh_stride",
        "a strided group thinks its ranks are neighbours",
        "mesh/mesh.hpp",
        "if (!inside) s *= at(a).size;",
        "",
        "mutation.geometry",
        "geometry: the stride*",
    ),
]
