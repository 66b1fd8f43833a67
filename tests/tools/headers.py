#!/usr/bin/env python3
"""Compiles every header of include/sp alone, included twice, with warnings as errors; lists the headers that fail. CXX may be nvcc.

headers.py --compiler CXX [--jobs N] [--only PATTERN] [--turn 0|1] [--always PATTERN] [--without PATTERN] ROOT [-- FLAGS...]
headers.py --compiler CXX --program FILE ROOT [-- FLAGS...]   compiles a program that instantiates them, under the same warnings
headers.py --compiler CXX --self-test                         plants a narrowing in a header and in a template, which must be found
"""
import argparse
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tempfile

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wsign-conversion", "-Werror"]


def is_nvcc(compiler):
    return pathlib.Path(compiler).name == "nvcc"


def command_for(compiler, root, flags):
    if is_nvcc(compiler):
        one = ["-gencode", "arch=compute_80,code=sm_80"]  # nvcc 13 compiles twice for -arch=sm_80
        return [compiler, "-std=c++20", *one, "-Werror", "all-warnings", "-I", str(root), *flags, "-o", "/dev/null", "-c"]
    return [compiler, "-std=c++20", "-O0", "-fsyntax-only", *WARNINGS, "-I", str(root), *flags, "-x", "c++", "-"]


def compile_text(command, text):
    if is_nvcc(command[0]):  # reads no standard input
        with tempfile.NamedTemporaryFile("w", suffix=".cu") as source:
            source.write(text)
            source.flush()
            return subprocess.run([*command, source.name], capture_output=True, text=True)
    return subprocess.run(command, input=text, capture_output=True, text=True)


def compile_alone(command, header):
    return compile_text(command, f"#include <{header}>\n" * 2)


def compile_program(options):
    result = compile_text(command_for(options.compiler, options.root, options.flags), options.program.read_text())
    print(result.stderr + f"{options.program.name}: {'failed' if result.returncode else 'no warning'} with {options.compiler}")
    return 1 if result.returncode else 0


def self_test(compiler):
    """A header must fail by itself, a template in it only where it is instantiated."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        plant = "template <class To, class From> To narrow(From x) { return x; }\n"
        (root / "clean.hpp").write_text("#pragma once\n" + plant)
        (root / "narrows.hpp").write_text("#pragma once\ninline int narrow(long x) { return x; }\n")
        (root / "sign.hpp").write_text("#pragma once\ninline unsigned sign(int x) { return x; }\n")
        command = command_for(compiler, root, [])
        compiles = lambda text: compile_text(command, text).returncode == 0
        use = "#include <clean.hpp>\n{0} use() {{ return narrow<{0}>({1}); }}\n"
        found = {
            "a clean header": compile_alone(command, "clean.hpp").returncode == 0,
            "a clean instantiation": compiles(use.format("int", "1")),
            "a narrowing header": compile_alone(command, "narrows.hpp").returncode != 0,
            "a header that changes a sign": compile_alone(command, "sign.hpp").returncode != 0,
            "a narrowing instantiation": not compiles(use.format("int", "1L")),
            "an instantiation that changes a sign": not compiles(use.format("unsigned", "1")),
        }
    for what, right in found.items():
        print(f"{'told apart' if right else 'MISSED'}: {what}")
    return 0 if all(found.values()) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", metavar="PATTERN", default=".*", help="a regular expression: these headers and no others")
    parser.add_argument("--turn", type=int, choices=(0, 1), help="the even ones of these headers or the odd ones: two compilers take turns")
    parser.add_argument("--always", metavar="PATTERN", default="", help="a regular expression: these headers whoever's turn it is")
    parser.add_argument("--without", metavar="PATTERN", help="a regular expression: leaves these headers out, and says so")
    parser.add_argument("--program", type=pathlib.Path)
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("root", type=pathlib.Path, nargs="?", help="the folder that holds sp/")
    parser.add_argument("flags", nargs="*", help="more flags for the compiler")
    options = parser.parse_args()

    if options.self_test:
        sys.exit(self_test(options.compiler))
    if options.program:
        sys.exit(compile_program(options))
    command = command_for(options.compiler, options.root, options.flags)

    kinds = ("*.hpp", "*.cuh") if is_nvcc(options.compiler) else ("*.hpp",)
    headers = sorted(path.relative_to(options.root).as_posix() for kind in kinds for path in options.root.rglob(kind))
    headers = [h for h in headers if re.fullmatch(options.only, h)]
    for header in [h for h in headers if options.without and re.fullmatch(options.without, h)]:
        headers.remove(header)
        print(f"left out: {header}")
    if options.turn is not None:
        turns = [h for h in headers if not re.fullmatch(options.always, h)][options.turn :: 2]
        headers = [h for h in headers if h in turns or re.fullmatch(options.always, h)]
    if not headers:
        sys.exit(f"no header to compile under {options.root}")
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
