# Bugs planted in: the segments and the ranges of shared memory between processes.
from mutants.mutant import Mutant

MUTANTS = [
    Mutant(
        "ranges_join_behind_alone",
        "what is given back joins with the free range behind it, not with the one before",
        "collective/mpi/node_memory.hpp",
        "k-- > (i > 0 ? i - 1 : 0);)",
        "k-- > i;)",
        "collective.ranges",
        "free ranges: *",
    ),
    Mutant(
        "ranges_join_before_alone",
        "what is given back joins with the free range before it, not with the one behind",
        "collective/mpi/node_memory.hpp",
        "for (std::size_t k = i + 1; k-- >",
        "for (std::size_t k = i; k-- >",
        "collective.ranges",
        "free ranges: *",
    ),
    Mutant(
        "ranges_not_all_free",
        "a segment counts as unused when one range of it is free, whatever its size",
        "collective/mpi/node_memory.hpp",
        "return free_.size() == 1 && free_[0].bytes == bytes_; }",
        "return free_.size() == 1; }",
        "collective.ranges",
        "free ranges: *",
    ),
    Mutant(
        "segment_by_part_of_name",
        "a segment is taken for another whose name begins like its own",
        "collective/mpi/segment.hpp",
        'std::size_t(n)) != "/memfd:" + peer.name_of(number) + " (deleted)")',
        'std::size_t(n)).find(peer.name_of(number)) == std::string::npos)',
        "mpi.mpi_shared",
        "mpi shared: a segment is opened*",
    ),
]
