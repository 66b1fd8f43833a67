#!/usr/bin/env python3
"""Checks that refused code is refused with its sentence: one file, compiled as a control build and as a failing build.

compile_fail.py --compiler CXX --include DIR [--prelude FOLDER] [--refused-only] FILE    --refused-only: no control build
compile_fail.py --compiler CXX --include DIR --prelude FOLDER --precompile FILE.hpp   makes the folder: what all programs read first

FILE holds `#ifdef SP_FAIL` around the refused code and at least one line `// EXPECT: <regex>`.
Without SP_FAIL it must compile; with SP_FAIL it must not, and every regex must match what the compiler says, where white
space is folded to single blanks. `// EXPECT-GCC:` and `// EXPECT-CLANG:` hold for one compiler. `// EXPECT-SOON:` must match one of the
first fifteen lines that a user sees, source text included.
"""
import argparse
import functools
import pathlib
import re
import subprocess
import sys


@functools.cache
def is_clang(compiler):
    return "clang" in subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout


def base_command(options):
    # No carets: an echo of the source text must not be mistaken for the compiler's own words. Types are written out.
    no_echo = "-fno-caret-diagnostics" if is_clang(options.compiler) else "-fno-diagnostics-show-caret"
    command = [options.compiler, "-std=c++20", "-O0", "-Wall", "-Wextra", no_echo, "-fno-elide-type"]
    return command + [f"-I{folder}" for folder in options.include]


def precompile(options):
    """A precompiled header: g++ finds FOLDER/prelude.hpp.gch where it is told to include FOLDER/prelude.hpp."""
    options.prelude.mkdir(parents=True, exist_ok=True)
    header = options.prelude / "prelude.hpp"
    header.write_text(options.file.read_text().replace("#pragma once\n", "")) # compiled as a main file, where it would be a warning
    made = subprocess.run([*base_command(options), "-x", "c++-header", str(header), "-o", f"{header}.gch"])
    return made.returncode


def compile_file(options, *extra):
    command = [*base_command(options), "-fsyntax-only"]
    if options.prelude and is_clang(options.compiler):
        command += ["-include-pch", str(options.prelude / "prelude.hpp.gch")]
    elif options.prelude:
        command += ["-include", str(options.prelude / "prelude.hpp")]
    return subprocess.run([*command, *extra, str(options.file)], capture_output=True, text=True)


def user_sees(options):
    """The first lines of what the compiler says with the settings it has by itself."""
    command = [options.compiler, "-std=c++20", "-fsyntax-only", "-DSP_FAIL", *[f"-I{folder}" for folder in options.include]]
    said = subprocess.run([*command, str(options.file)], capture_output=True, text=True).stderr
    return "\n".join(said.splitlines()[:15])


def check(options):
    text = options.file.read_text()
    soon = re.findall(r"^// EXPECT-SOON: (.+?)\s*$", text, re.MULTILINE)
    kinds = {"EXPECT", "EXPECT-CLANG" if is_clang(options.compiler) else "EXPECT-GCC"}
    expected = [regex for kind, regex in re.findall(r"^// (EXPECT(?:-GCC|-CLANG)?): (.+?)\s*$", text, re.MULTILINE) if kind in kinds]
    if not expected and not soon:
        return "no line `// EXPECT: <regex>` for this compiler"
    if not re.search(r"^#\s*ifdef SP_FAIL\b", text, re.MULTILINE):
        return "no `#ifdef SP_FAIL`"

    if not options.refused_only:
        control = compile_file(options, "-Werror")
        if control.returncode:
            return f"the control build fails:\n{control.stderr}"
    refused = compile_file(options, "-DSP_FAIL")
    if refused.returncode == 0:
        return "the code under SP_FAIL compiles"
    said = re.sub(r"\s+", " ", refused.stderr)
    missing = [regex for regex in expected if not re.search(regex, said)]
    if missing:
        return "".join(f"not said: {regex}\n" for regex in missing) + f"the compiler says:\n{refused.stderr}"
    first = user_sees(options) if soon else ""
    late = [regex for regex in soon if not re.search(regex, first)]
    if late:
        return "".join(f"not said in fifteen lines: {regex}\n" for regex in late) + f"a user sees first:\n{first}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--include", action="append", default=[])
    parser.add_argument("--prelude", type=pathlib.Path)
    parser.add_argument("--precompile", action="store_true")
    parser.add_argument("--refused-only", action="store_true")
    parser.add_argument("file", type=pathlib.Path)
    options = parser.parse_args()
    if options.precompile:
        sys.exit(precompile(options))
    problem = check(options)
    print(f"compile_fail: {options.file.name}: {problem or 'refused with its sentence'}")
    sys.exit(1 if problem else 0)


if __name__ == "__main__":
    main()
