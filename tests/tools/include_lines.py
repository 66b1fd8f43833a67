#!/usr/bin/env python3
"""Compares what the headers that users include cost them, in preprocessed lines, with a table of what they may cost.

include_lines.py --compiler CXX [--without PATTERN] [--update] TABLE ROOT [-- FLAGS...]    --update writes the table anew
include_lines.py --compiler CXX --self-test TABLE ROOT [-- FLAGS...]    plants <memory> in a header, and other faults, to be found

Lines are the same from run to run, unlike times, which bench/include_cost.sh measures. Blank lines and those of foreign libraries
(-isystem, fmt) are not counted. Headers may grow by 3 % before the table has to change. The table's first row is the standard library's
own <vector>, <span> and <string>: where these have other lengths, nothing can be compared, and the exit status is 77.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOM = 1.03
FEW = 20  # lines that no header is refused for
BASE = "standard"
BASE_TEXT = "#include <vector>\n#include <span>\n#include <string>\n"
HEAD = """# Preprocessed lines of the headers that users include; tests/tools/include_lines.py --update writes this table.
# A header may have 3 % more. `standard` is <vector>, <span> and <string> of the library that the others were counted with.
"""
MARKER = re.compile(r'# \d+ "([^"]*)"')


def lines_of(options, root, text):
    command = [options.compiler, "-std=c++20", "-E", "-I", str(root), *options.flags, "-x", "c++", "-"]
    run = subprocess.run(command, input=text, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    foreign = tuple(f.removeprefix("-isystem") + "/" for f in options.flags if f.startswith("-isystem") and f != "-isystem")
    count, counts = 0, True
    for line in run.stdout.splitlines():
        if marker := MARKER.match(line):
            counts = not ((foreign and marker[1].startswith(foreign)) or "/fmt/" in marker[1])
        else:
            count += counts and bool(line.strip())
    return count


def measure(options, root):
    names = sorted(f"sp/{h.name}" for h in (root / "sp").glob("*.hpp"))
    if options.without:
        names = [n for n in names if not re.fullmatch(options.without, n)]
    return {n: lines_of(options, root, f"#include <{n}>\n") for n in names}


def read(table):
    rows = [row.split() for row in table.splitlines() if row and not row.startswith("#")]
    return {name: int(lines) for name, lines in rows}


def written(base, found):
    return HEAD + "".join(f"{name} {lines}\n" for name, lines in {BASE: base, **found}.items())


def complaints(found, allowed, without):
    said = []
    for name, lines in found.items():
        if name not in allowed:
            said.append(f"{name}: {lines} lines, and no row in the table")
        elif lines > ROOM * allowed[name] + FEW:
            said.append(f"{name}: {lines} lines, {100 * (lines / allowed[name] - 1):.1f} % more than the table's {allowed[name]}: "
                        "leave out an #include, or say in the commit why users should pay for it and run --update")
    gone = (n for n in allowed if n not in found and n != BASE and not (without and re.fullmatch(without, n)))
    return said + [f"{name}: in the table, but there is no such header" for name in gone]


def self_test(options):
    """The faults are found in a small tree and, where the table can be compared at all, <memory> in the real one."""
    failed = []

    def demand(what, holds):
        if not holds:
            failed.append(what)

    options.without = None
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "sp").mkdir()
        one, two = root / "sp" / "one.hpp", root / "sp" / "two.hpp"
        one.write_text("#pragma once\n#include <vector>\n")
        allowed = read(written(1, measure(options, root)))
        demand("a tree keeps its own table", complaints(measure(options, root), allowed, None) == [])
        one.write_text("#pragma once\n#include <vector>\n" + "\n\n// nothing\n" * 5000 + "int x;\n" * 100)
        demand("a little more, and comments, are allowed", complaints(measure(options, root), allowed, None) == [])
        one.write_text("#pragma once\n#include <vector>\n#include <memory>\n")
        two.write_text("#pragma once\n")
        found = complaints(measure(options, root), allowed, None)
        demand("<memory> and a header without a row are found", len(found) == 2 and "no row" in found[1])
        one.unlink()
        demand("a row without a header is found", "no such header" in complaints(measure(options, root), allowed, None)[-1])
    allowed = read(options.table.read_text())
    if lines_of(options, options.root, BASE_TEXT) == allowed[BASE]:
        name = "sp/ulysses.hpp"
        found = {name: lines_of(options, options.root, f"#include <memory>\n#include <{name}>\n")}
        demand(f"<memory> in {name} is found", complaints(found, {name: allowed[name]}, None) != [])
    print("\n".join(f"not so: {f}" for f in failed) or "every planted fault was found")
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--without")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("table", type=pathlib.Path)
    parser.add_argument("root", type=pathlib.Path)
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[:own.index("--")], own[own.index("--") + 1:]
    options = parser.parse_args(own)
    options.flags = [f for f in flags if f]
    os.environ.pop("CPLUS_INCLUDE_PATH", None)
    if options.self_test:
        return self_test(options)
    base = lines_of(options, options.root, BASE_TEXT)
    if options.update:
        options.table.write_text(written(base, measure(options, options.root)))
        return 0
    allowed = read(options.table.read_text())
    if base != allowed[BASE]:
        print(f"not compared: <vector>, <span> and <string> have {base} lines here, {allowed[BASE]} where the table was made")
        return 77
    found = measure(options, options.root)
    said = complaints(found, allowed, options.without)
    print("\n".join(said) or f"{len(found)} headers cost what the table allows")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
