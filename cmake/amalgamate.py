#!/usr/bin/env python3
"""Writes all headers of sp that need nothing but a compiler into one: each once, below the headers it uses, system headers on top.
The same headers always give the same bytes. Headers that reach a foreign library (MPI, fmt, ...) are left out and named.

amalgamate.py INCLUDE OUT            writes OUT from INCLUDE/sp; --quiet leaves out the report
amalgamate.py --check INCLUDE FILE   fails if FILE is not what the headers give now
amalgamate.py --self-test            plants what must be refused or left out
"""
import pathlib
import re
import sys
import tempfile

INCLUDE = re.compile(r"[ \t]*#[ \t]*include[ \t]*([<\"])([^>\"]+)[>\"]")
CONDITION = re.compile(r"[ \t]*#[ \t]*(if|ifdef|ifndef|endif)\b")
# Names with a dot or a slash that are not foreign: they come with the operating system or the compiler.
SYSTEM = re.compile(r"(unistd|fcntl|pthread|sched|signal|poll|immintrin|x86intrin|arm_neon)\.h|sys/\w+\.h")

HEAD = """// sp {version}: sequence-parallel attention, every header without foreign dependencies in one. Written by cmake/amalgamate.py: do not edit.
// Compile with -std=c++20 (g++ 12, clang 16 or later), and with -pthread where ranks are threads. Do not mix with the headers of sp/.
//
// SPDX-License-Identifier: Apache-2.0
// Licensed under the Apache License, Version 2.0; you may obtain a copy at http://www.apache.org/licenses/LICENSE-2.0.
// Distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
#pragma once

"""


class Refused(Exception):
    pass


class Header:
    """One header: what it includes from sp, from the system, and the lines that remain."""

    def __init__(self, name, text):
        self.name, self.sp, self.system, self.lines, self.doubtful = name, [], [], [], []
        depth = 0
        for number, line in enumerate(text.splitlines(), 1):
            condition, include = CONDITION.match(line), INCLUDE.match(line)
            if condition:
                depth += -1 if condition[1] == "endif" else 1
            if include and include[2].startswith("sp/"):
                if depth:
                    self.doubtful.append(f"{name}:{number}: includes {include[2]} under a condition; nobody could say what belongs into one file")
                self.sp.append(include[2])
            elif include and include[1] == '"':
                raise Refused(f"{name}:{number}: includes \"{include[2]}\"; write the full path, <sp/...>")
            elif include and not depth:
                self.system.append(include[2])
            elif line.strip() != "#pragma once":
                self.lines.append(line)
                if include:
                    self.system.append(include[2])  # stays where it is, and counts
        self.conditional = [m[2] for line in self.lines if (m := INCLUDE.match(line))]
        self.hoisted = [s for s in self.system if s not in self.conditional]
        self.foreign = [s for s in self.system if ("." in s or "/" in s) and not SYSTEM.fullmatch(s)]


def collect(include):
    root = pathlib.Path(include)
    headers = {}
    for path in sorted(root.glob("sp/**/*.hpp")):
        name = path.relative_to(root).as_posix()
        headers[name] = Header(name, path.read_text())
    if not headers:
        raise Refused(f"no header under {root}/sp")
    for header in headers.values():
        for name in header.sp:
            if name not in headers:
                raise Refused(f"{header.name}: includes {name}, which does not exist")
    return headers


def reasons_to_leave_out(headers):
    """name -> the foreign header it reaches."""
    reason = {name: h.foreign[0] for name, h in headers.items() if h.foreign}
    grew = True
    while grew:
        grew = False
        for name, header in headers.items():
            if name not in reason:
                found = [reason[s] for s in header.sp if s in reason]
                if found:
                    reason[name], grew = found[0], True
    return reason


def in_order(headers, left_out):
    """Every header that stays, behind the headers it includes; entry points first, then what no entry point reaches."""
    order, state = [], {}

    def visit(name):
        if state.get(name) == "open":
            raise Refused(f"{name} includes itself in a circle")
        if name in state or name in left_out:
            return
        state[name] = "open"
        for below in headers[name].sp:
            visit(below)
        state[name] = "done"
        order.append(name)

    for name in sorted(headers, key=lambda n: (n.count("/") > 1, n)):
        visit(name)
    return order


def version_of(headers):
    lines = headers["sp/version.hpp"].lines if "sp/version.hpp" in headers else []
    numbers = dict(m.groups() for line in lines if (m := re.match(r"#define SP_VERSION_(MAJOR|MINOR|PATCH) (\d+)", line)))
    if len(numbers) != 3:
        raise Refused("sp/version.hpp does not define SP_VERSION_MAJOR, SP_VERSION_MINOR and SP_VERSION_PATCH")
    return "{MAJOR}.{MINOR}.{PATCH}".format(**numbers)


def amalgamate(include):
    """The text of the single header, the names in it, and what was left out with its reason."""
    headers = collect(include)
    left_out = reasons_to_leave_out(headers)
    for name, header in headers.items():
        if header.doubtful and name not in left_out:
            raise Refused(header.doubtful[0])
    order = in_order(headers, left_out)
    system = sorted({s for name in order for s in headers[name].hoisted})
    text = HEAD.format(version=version_of(headers)) + "".join(f"#include <{s}>\n" for s in system)
    for name in order:
        body = "\n".join(headers[name].lines).strip("\n")
        text += f"\n// ---------------------------------------------------------------- {name}\n{body}\n"
    return re.sub(r"\n{3,}", "\n\n", text), order, left_out


def self_test():
    version = "#define SP_VERSION_MAJOR 1\n#define SP_VERSION_MINOR 2\n#define SP_VERSION_PATCH 3\n"
    clean = {
        "sp/version.hpp": version,
        "sp/core/a.hpp": "#pragma once\n#include <vector>\nint a;\n",
        "sp/b.hpp": "#include <sp/core/a.hpp>\n#include <vector>\nint b;\n",
        "sp/c.hpp": "#include <sp/b.hpp>\n#include <sp/core/a.hpp>\n#include <unistd.h>\nint c;\n",
    }
    refused = {
        "under a condition": {"sp/b.hpp": "#if 1\n#include <sp/core/a.hpp>\n#endif\n"},
        "write the full path": {"sp/b.hpp": '#include "core/a.hpp"\n'},
        "does not exist": {"sp/b.hpp": "#include <sp/core/gone.hpp>\n"},
        "in a circle": {"sp/core/a.hpp": "#include <sp/b.hpp>\n"},
        "does not define": {"sp/version.hpp": "#define SP_VERSION_MAJOR 1\n"},
    }
    failures = []

    def run(change):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**clean, **change}.items():
                path = pathlib.Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return amalgamate(folder)

    text, order, left_out = run({})
    body = [line for line in text.splitlines() if line.startswith("int ")]
    if body != ["int a;", "int b;", "int c;"] or text.count("#include <vector>") != 1 or "#include <sp" in text or left_out:
        failures.append(f"the clean tree gives {order}, without {left_out}:\n{text}")
    if "// sp 1.2.3:" not in text:
        failures.append("the version is missing")
    _, order, left_out = run({"sp/core/a.hpp": "#include <mpi.h>\n"})
    if set(left_out) != {"sp/core/a.hpp", "sp/b.hpp", "sp/c.hpp"} or order != ["sp/version.hpp"]:
        failures.append(f"a foreign header leaves out {left_out}")
    _, order, left_out = run({"sp/b.hpp": "#ifdef A\n#include <sp/core/a.hpp>\n#endif\n", "sp/core/a.hpp": "#include <mpi.h>\n"})
    if set(left_out) != {"sp/core/a.hpp", "sp/b.hpp", "sp/c.hpp"}:
        failures.append(f"a foreign header under a condition leaves out {left_out}")
    for expected, change in refused.items():
        try:
            run(change)
            failures.append(f"planted '{expected}' was not refused")
        except Refused as complaint:
            if expected not in str(complaint):
                failures.append(f"planted '{expected}' was refused with: {complaint}")
    print("\n".join(failures) or f"{len(refused)} planted faults refused, foreign headers left out, the clean tree in order")
    return 1 if failures else 0


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    quiet = "--quiet" in arguments
    check = "--check" in arguments
    paths = [a for a in arguments if not a.startswith("--")]
    if len(paths) != 2:
        sys.exit(__doc__)
    include, file = paths[0], pathlib.Path(paths[1])
    text, order, left_out = amalgamate(include)
    if check:
        if file.read_text() != text:
            sys.exit(f"{file} is not what {include}/sp gives now; write it again: cmake/amalgamate.py {include} {file}")
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    if not quiet:
        print(f"{file}: {len(order)} headers, {text.count(chr(10))} lines")
        for name, reason in sorted(left_out.items()):
            print(f"left out: {name} needs {reason}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Refused as complaint:
        sys.exit(f"amalgamate: {complaint}")
