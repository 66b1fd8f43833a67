#!/usr/bin/env python3
"""Checks that headers are the same text for every processor, but for what stands in the namespace of the target.

targets.py --compiler CXX SOURCE FOLDER [-- FLAG...]   what SOURCE includes from FOLDER, preprocessed for several processors
targets.py --self-test

A function that asks for the target anywhere else has two bodies under one symbol in a program whose translation units are compiled
with different -m flags; the linker keeps either.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

TARGETS = [["-mno-avx", "-mno-fma"], ["-mavx2", "-mfma"], ["-mavx512f", "-mfma"]]
TARGET_NAMESPACE = re.compile(r"\binline\s+namespace\s+(?:any_cpu|avx\w*)\s*\{")


def lines_of(text, folder):
    """The lines of preprocessed text that come from files in `folder`, without white space, by `file:line`."""
    inside, name, number = False, "", 0
    for line in text.splitlines():
        marker = re.match(r'# (\d+) "([^"]*)"', line)
        if marker:
            path = pathlib.Path(marker[2])
            number, inside = int(marker[1]), folder in path.resolve().parents if marker[2][0] != "<" else False
            name = path.name
            continue
        if inside and line.strip():
            yield f"{name}:{number}", "".join(line.split()), line
        number += 1


def outside_of_target(lines):
    """The same without what stands in the namespace of a target."""
    depth = 0
    for place, squeezed, line in lines:
        if depth == 0:
            opened = TARGET_NAMESPACE.search(line)
            if not opened:
                yield place, squeezed
                continue
            line = line[opened.end() - 1 :]
        depth += line.count("{") - line.count("}")


def difference(compiler, source, folder, flags):
    """What differs, in one line; None if nothing does."""
    kept = []
    for target in TARGETS:
        command = [compiler, "-std=c++20", "-E", *target, f"-I{folder}", *flags, str(source)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        kept.append(list(outside_of_target(lines_of(text, pathlib.Path(folder).resolve()))))
        if not kept[-1]:
            return f"nothing is left of {folder} for {' '.join(target)}"
        for one, other in zip(kept[0], kept[-1]):
            if one[1] != other[1]:
                return f"{one[0]} is `{one[1]}` for {' '.join(TARGETS[0])}, {other[0]} is `{other[1]}` for {' '.join(target)}"
        if len(kept[0]) != len(kept[-1]):
            return f"{len(kept[0])} lines for {' '.join(TARGETS[0])}, {len(kept[-1])} for {' '.join(target)}"
    return None


def self_test(compiler):
    guarded = "#if defined(__AVX2__)\n#define T avx2\n#else\n#define T any_cpu\n#endif\nnamespace sp { inline namespace T {\n%s}\n}\n"
    branch = "#ifdef __FMA__\ninline int f() { return 1; }\n#else\ninline int f() { return 2; }\n#endif\n"
    cases = {guarded % branch + "int x;\n": True, branch: False, guarded % "int x;\n" + branch: False, "inline int f() { return 1; }\n": True}
    for text, fine in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "h.hpp").write_text(text)
            source = pathlib.Path(folder) / "main.cpp"
            source.write_text("#include <h.hpp>\n")
            found = difference(compiler, source, folder, [])
            if (found is None) != fine:
                return f"{text}\ngives: {found}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("source", nargs="?")
    parser.add_argument("folder", nargs="?")
    parser.add_argument("flags", nargs="*")
    options = parser.parse_args()
    problem = self_test(options.compiler) if options.self_test else difference(options.compiler, options.source, options.folder, options.flags)
    print(f"targets: {problem or 'the same text for every processor outside of its namespace'}")
    sys.exit(1 if problem else 0)


if __name__ == "__main__":
    main()
