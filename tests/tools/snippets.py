#!/usr/bin/env python3
"""Compiles and runs every ```cpp snippet of a page, and checks its printed output and its links.

snippets.py --compiler CXX [--include DIR]... [--precompiled FILE.pch] --out DIR PAGE.md
snippets.py --compiler CLANG [--include DIR]... --precompiled FILE.pch --precompile HEADERS.hpp    makes that file, which snippets read first

A snippet is a whole program unless the line before it says otherwise:
  <!-- snippet: program=NAME -->               snippets of one NAME follow each other in one program
  <!-- snippet: program=NAME prelude=FILE -->  they replace the line `// SNIPPETS` of docs/snippets/FILE
  <!-- snippet: program=NAME part=top -->      this one replaces the line `// TOP` there (types, includes)
  <!-- snippet: program=NAME part=block -->    this one stands in braces of its own
  <!-- output: NAME -->                        the next fence is what program NAME prints, exactly
Programs are compiled with warnings as errors and must exit with 0.
"""
import argparse
import dataclasses
import pathlib
import re
import subprocess
import sys

FENCE = re.compile(r"^```(\w*)\s*$")
MARK = re.compile(r"^<!--\s*(snippet|output):\s*(.*?)\s*-->\s*$")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


@dataclasses.dataclass
class Program:
    prelude: str = ""
    body: list = dataclasses.field(default_factory=list)
    top: list = dataclasses.field(default_factory=list)
    output: str | None = None


def blocks(lines):
    """Yields (mark kind, mark text, language, number of the first line, text) of every fence."""
    kind, options, start, language, text = "", "", None, "", []
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if start is None and fence:
            start, language, text = number + 1, fence[1], []
        elif start is not None and line.startswith("```"):
            yield kind, options, language, start, "".join(text)
            kind, options, start = "", "", None
        elif start is not None:
            text.append(line)
        elif mark := MARK.match(line):
            kind, options = mark[1], mark[2]
        elif line.strip():
            kind, options = "", ""
    if start is not None:
        raise SystemExit(f"line {start - 1}: this fence does not end")


def programs(page):
    found = {}
    for kind, options, language, start, text in blocks(page.read_text().splitlines(keepends=True)):
        if kind == "output":
            found.setdefault(options, Program()).output = text
            continue
        if language != "cpp":
            if kind:
                raise SystemExit(f"{page.name}:{start}: a snippet that is not ```cpp")
            continue
        keys = dict(pair.split("=", 1) for pair in options.split())
        if unknown := set(keys) - {"program", "prelude", "part"}:
            raise SystemExit(f"{page.name}:{start}: unknown {', '.join(sorted(unknown))}")
        program = found.setdefault(keys.get("program", f"line{start}"), Program())
        program.prelude = keys.get("prelude", program.prelude)
        part = keys.get("part", "")
        numbered = f'#line {start} "{page.name}"\n{text}'
        (program.top if part == "top" else program.body).append("{\n" + numbered + "}\n" if part == "block" else numbered)
    return found


def source_of(program, folder):
    body, top = "".join(program.body), "".join(program.top)
    if not program.prelude:
        return top + body
    path = folder / program.prelude
    text = path.read_text()
    if "// SNIPPETS\n" not in text or (top and "// TOP\n" not in text):
        raise SystemExit(f"{path.name} has no place for the snippets")
    for place, code in (("// TOP\n", top), ("// SNIPPETS\n", body)):
        if place in text:
            after = path.read_text().split(place)[0].count("\n") + 2
            text = text.replace(place, f'{code}#line {after} "{path.name}"\n')
    return text


def command_of(options):
    return [options.compiler, "-std=c++20", "-O0", "-Wall", "-Wextra", "-Werror", "-pthread", *[f"-I{folder}" for folder in options.include]]


def precompile(options):
    options.precompiled.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.run([*command_of(options), "-x", "c++-header", str(options.precompile), "-o", str(options.precompiled)]).returncode


def run_program(name, program, options, snippets):
    source = options.out / f"{options.page.stem}_{name}.cpp"
    binary = source.with_suffix("")
    source.write_text(source_of(program, snippets))
    first = ["-include-pch", str(options.precompiled)] if options.precompiled else []
    compiled = subprocess.run([*command_of(options), *first, str(source), "-o", str(binary)], capture_output=True, text=True)
    if compiled.returncode:
        return "does not compile:\n" + compiled.stderr
    ran = subprocess.run([str(binary)], capture_output=True, text=True, timeout=100)
    if ran.returncode:
        return f"ends with {ran.returncode}:\n{ran.stdout}{ran.stderr}"
    if program.output is not None and ran.stdout != program.output:
        return f"prints\n{ran.stdout}instead of\n{program.output}"
    return None


def without_code(page):
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """The names under which GitHub finds a page's headings."""
    heads = re.findall(r"^#+ (.*?)\s*$", without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


def dead_links(page):
    dead = []
    for path, anchor in LINK.findall(without_code(page)):
        target = page.parent / path if path else page
        if "://" not in path and (not target.exists() or (anchor and anchor not in anchors(target))):
            dead.append(path + (f"#{anchor}" if anchor else ""))
    return dead


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--include", action="append", default=[])
    parser.add_argument("--precompiled", type=pathlib.Path)
    parser.add_argument("--precompile", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--snippets", type=pathlib.Path, required=True, help="the folder of preludes")
    parser.add_argument("--only", help="one program")
    parser.add_argument("page", type=pathlib.Path, nargs="?")
    options = parser.parse_args()
    if options.precompile:
        sys.exit(precompile(options))
    if not (options.page and options.out):
        parser.error("a page and --out")
    options.out.mkdir(parents=True, exist_ok=True)
    failed = [f"dead link {link}" for link in dead_links(options.page)]
    found = programs(options.page)
    for name, program in found.items():
        if options.only and name != options.only:
            continue
        problem = run_program(name, program, options, options.snippets)
        print(f"snippets: {options.page.name}: {name}: {problem or 'compiles, runs and agrees'}", flush=True)
        if problem:
            failed.append(name)
    for failure in failed:
        print(f"snippets: {options.page.name}: failed: {failure}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
