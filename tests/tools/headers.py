#!/usr/bin/env python3
"""Compiles every header of include/sp alone, included twice, with warnings as errors; lists the headers that fail.

headers.py --compiler CXX [--jobs N] [--without PATTERN] ROOT [-- FLAGS...]
"""
import argparse
import concurrent.futures
import pathlib
import re
import subprocess
import sys

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Werror"]


def compile_alone(command, header):
    text = f"#include <{header}>\n#include <{header}>\n"
    return subprocess.run(command, input=text, capture_output=True, text=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--without", metavar="PATTERN", help="a regular expression: leaves these headers out, and says so")
    parser.add_argument("root", type=pathlib.Path, help="the folder that holds sp/")
    parser.add_argument("flags", nargs="*", help="more flags for the compiler")
    options = parser.parse_args()

    command = [options.compiler, "-std=c++20", "-O0", "-fsyntax-only", *WARNINGS, "-I", str(options.root)]
    command += [*options.flags, "-x", "c++", "-"]

    headers = sorted(path.relative_to(options.root).as_posix() for path in options.root.rglob("*.hpp"))
    for header in [h for h in headers if options.without and re.fullmatch(options.without, h)]:
        headers.remove(header)
        print(f"left out: {header}")
    if not headers:
        sys.exit(f"no header under {options.root}")
    failed = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for header, result in zip(headers, pool.map(lambda h: compile_alone(command, h), headers)):
            if result.returncode:
                failed.append(header)
                print(f"--- {header}\n{result.stderr}")
    print(f"{len(headers) - len(failed)} of {len(headers)} headers compile alone with {options.compiler}")
    for header in failed:
        print(f"failed: {header}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
