#!/usr/bin/env python3
"""Checks the layers of include/sp: includes point downwards only, heavy headers stay inside the models that need them.

layers.py ROOT        checks the headers under ROOT/sp
layers.py --self-test plants one violation of each kind and demands that it is found
"""
import pathlib
import re
import sys
import tempfile

# A header may include its own layer and those of a smaller number; layers of the same number never include each other.
LEVEL = {
    "core": 0,
    "geometry": 1,
    "diagnosis": 1,
    "cuda": 1,
    "sharding": 2,
    "collective": 2,
    "backend": 2,
    "mesh": 3,
    "layout": 4,
    "attention": 5,
    "loss": 5,
    "linear": 6,
    "multimodal": 7,
    "": 8,  # the entry points include/sp/*.hpp
}
MAX_LINES = 400

HEAVY = set(
    "barrier condition_variable execution filesystem fstream functional future iomanip ios iostream istream latch locale mutex "
    "ostream random ranges regex semaphore shared_mutex sstream stop_token streambuf syncstream thread".split()
)
# Headers that may include heavy or foreign headers: models, and the entry points that exist to name such a model.
MODELS = re.compile(r"(core/workers/(thread_set|workers)|collective/(threads|mpi|nccl)/\w+|collective/decorators/chaos|diagnosis/\w+|cuda/(?!block\b)\w+|backend/cudnn/(engine|frontend))\.hpp")
HEAVY_ENTRY_POINTS = {"diagnosis.hpp", "local.hpp", "threads.hpp", "workers.hpp", "chaos.hpp", "cuda.hpp", "cudnn.hpp", "mpi.hpp", "nccl.hpp", "fmt.hpp", "auto_wrap_pfr.hpp", "sp.hpp"}
# Headers that ask for an installed MPI. Nothing else may reach them: without MPI all of sp but these compiles.
NEEDS_MPI = re.compile(r"(collective/mpi/\w+|mpi)\.hpp")
# The same for CUDA's headers.
NEEDS_CUDA = re.compile(r"(\w+/)?(cuda|cudnn|nccl)\w*(/\w+)?\.hpp")

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def layer_of(name):
    return name.split("/")[0] if "/" in name else ""


def may_be_heavy(name):
    return bool(MODELS.fullmatch(name)) or name in HEAVY_ENTRY_POINTS


def check_header(name, text):
    """The complaints about one header, and the sp headers it includes."""
    complaints, includes = [], []
    lines = text.splitlines()
    layer = layer_of(name)
    if layer not in LEVEL:
        complaints.append(f"folder {layer} is no layer: {', '.join(l for l in LEVEL if l)}")
    if len(lines) >= MAX_LINES:
        complaints.append(f"{len(lines)} lines, fewer than {MAX_LINES} are allowed")
    if "#pragma once" not in lines:
        complaints.append("no #pragma once")
    if len(lines) < 2 or not all(re.match(r"// \S", line) for line in lines[:2]):
        complaints.append("does not open with two comment lines: what it is, what it guarantees")

    for quote, target in INCLUDE.findall(text):
        if target.startswith("sp/"):
            target = target[3:]
            includes.append(target)
            if quote == '"':
                complaints.append(f'write <sp/{target}>, not "sp/{target}"')
            below = layer_of(target)
            if below != layer and LEVEL.get(below, 99) >= LEVEL.get(layer, -1):
                complaints.append(f"includes sp/{target}: layer {below or 'sp'} is not below {layer or 'sp'}")
        elif quote == '"':
            complaints.append(f'includes "{target}": write the full path, <sp/...>')
        elif not may_be_heavy(name):
            if target in HEAVY:
                complaints.append(f"includes <{target}>: heavy headers belong into the models that need them")
            elif "." in target or "/" in target:
                complaints.append(f"includes <{target}>: foreign headers belong into the models that need them")
    return complaints, includes


def check_tree(root):
    headers = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.hpp"))}
    found, graph = [], {}
    for name, path in headers.items():
        complaints, graph[name] = check_header(name, path.read_text())
        found += [f"sp/{name}: {complaint}" for complaint in complaints]
        found += [f"sp/{name}: includes sp/{t}, which does not exist" for t in graph[name] if t not in headers]

    def chain_to_heavy(name, seen):
        for target in graph.get(name, []):
            if target in seen:
                continue
            seen.add(target)
            if may_be_heavy(target):
                return [target]
            rest = chain_to_heavy(target, seen)
            if rest:
                return [target, *rest]
        return []

    for name in headers:
        for library, needs in ("MPI", NEEDS_MPI), ("CUDA", NEEDS_CUDA):
            found += [f"sp/{name}: reaches {library} by sp/{t}" for t in graph[name] if needs.fullmatch(t) and not needs.fullmatch(name)]

    for name in headers:
        chain = [] if may_be_heavy(name) else chain_to_heavy(name, set())
        if chain:
            found.append(f"sp/{name}: reaches a heavy header by " + " -> ".join(chain))

    state = {}

    def find_cycle(name, path):
        state[name] = "open"
        for target in graph.get(name, []):
            if state.get(target) == "open":
                found.append("include cycle: " + " -> ".join([*path[path.index(target) :], target]))
            elif target not in state:
                find_cycle(target, [*path, target])
        state[name] = "done"

    for name in headers:
        if name not in state:
            find_cycle(name, [name])
    return found, len(headers)


def self_test():
    def header(*lines):
        return "\n".join(["// What it is.", "// What it guarantees.", "#pragma once", *lines]) + "\n"

    clean = {
        "core/view.hpp": header("#include <array>"),
        "geometry/run.hpp": header("#include <sp/core/view.hpp>"),
        "collective/threads/threads.hpp": header("#include <thread>"),
        "ring.hpp": header("#include <sp/geometry/run.hpp>"),
    }
    planted = {
        "is not below core": {"core/view.hpp": header("#include <sp/geometry/run.hpp>")},
        "layer backend is not below sharding": {
            "backend/cpu/cpu.hpp": header(),
            "sharding/zigzag.hpp": header("#include <sp/backend/cpu/cpu.hpp>"),
        },
        "heavy headers belong": {"core/view.hpp": header("#  include <thread>")},
        "foreign headers belong": {"core/view.hpp": header("#include <mpi.h>")},
        "reaches MPI": {"collective/mpi/mpi.hpp": header("#include <mpi.h>"), "sp.hpp": header("#include <sp/collective/mpi/mpi.hpp>")},
        "reaches CUDA": {"cuda/queue.hpp": header("#include <cuda_runtime_api.h>"), "sp.hpp": header("#include <sp/cuda/queue.hpp>")},
        "reaches a heavy header": {"ring.hpp": header("#include <sp/collective/threads/threads.hpp>")},
        "no #pragma once": {"core/view.hpp": "// What it is.\n// What it guarantees.\n"},
        "two comment lines": {"core/view.hpp": "// What it is.\n#pragma once\n"},
        "lines, fewer than": {"core/view.hpp": header(*["//"] * MAX_LINES)},
        "write <sp/core/view.hpp>": {"geometry/run.hpp": header('#include "sp/core/view.hpp"')},
        "write the full path": {"geometry/run.hpp": header('#include "../core/view.hpp"')},
        "which does not exist": {"geometry/run.hpp": header("#include <sp/core/gone.hpp>")},
        "is no layer": {"misc/a.hpp": header()},
        "include cycle": {"core/a.hpp": header("#include <sp/core/b.hpp>"), "core/b.hpp": header("#include <sp/core/a.hpp>")},
    }
    failures = []
    for expected, change in [(None, {}), *planted.items()]:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**clean, **change}.items():
                path = pathlib.Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            found, _ = check_tree(pathlib.Path(folder))
        if expected is None and found:
            failures.append(f"the clean tree is refused: {found}")
        elif expected is not None and not any(expected in complaint for complaint in found):
            failures.append(f"planted '{expected}' was not found, only {found}")
    print("\n".join(failures) or f"{len(planted)} planted violations found, the clean tree accepted")
    return 1 if failures else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test())
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found, count = check_tree(pathlib.Path(sys.argv[1]) / "sp")
    print("\n".join(found) or f"{count} headers keep the layers")
    sys.exit(1 if found or not count else 0)


if __name__ == "__main__":
    main()
