#!/usr/bin/env python3
"""Builds the reference manual with Doxygen: no warning, and every public name at namespace scope says what it is.
Names in detail are not public; members may speak for themselves.

manual.py --doxygen PROGRAM --settings DOXYFILE.IN --include DIR --out DIR [--version V]
manual.py ... --self-test      plants a malformed comment and a name without one, and demands that both are found
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

KINDS = {"class", "struct", "union", "concept"}
# What the headers hold in any case; fewer means that Doxygen misread them.
LANDMARKS = set(
    "sp::ring_attention sp::ulysses_attention sp::cpu sp::threads sp::mpi sp::batch sp::view sp::communicator sp::error "
    "sp::diagnosis::configure".split()
)


def run_doxygen(options, include, out):
    """The complaints of Doxygen over include/sp, after writing out/html and out/xml."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    values = {
        "PROJECT_VERSION": options.version,
        "PROJECT_DESCRIPTION": "Sequence-parallel attention, header-only C++20",
        "SP_MANUAL_INPUT": str(include / "sp"),
        "SP_MANUAL_OUTPUT": str(out),
    }
    settings = re.sub(r"@(\w+)@", lambda m: values[m[1]], options.settings.read_text())
    (out / "Doxyfile").write_text(settings)
    result = subprocess.run([options.doxygen, str(out / "Doxyfile")], capture_output=True, text=True)
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    if result.returncode and not lines:
        lines = [f"{options.doxygen} ends with {result.returncode}"]
    return lines


def described(node):
    return any("".join(part.itertext()).strip() for tag in ("briefdescription", "detaileddescription") for part in node.findall(tag))


def public(name):
    return name.startswith("sp::") and "::detail" not in name and "@" not in name and "<" not in name


def names_in(xml):
    """Every public name at namespace scope: name -> (described, where). Overloads count as one name."""
    found = {}

    def add(name, node):
        place = node.find("location")
        where = f"{place.get('file')}:{place.get('line')}" if place is not None else "?"
        before = found.get(name, (False, where))
        found[name] = (before[0] or described(node), before[1])

    pages = [path for path in sorted(xml.glob("*.xml")) if path.name not in ("index.xml", "Doxyfile.xml")]
    compounds = [(c.findtext("compoundname"), c.get("kind"), c) for path in pages for c in xml_root(path).iter("compounddef")]
    namespaces = {name for name, kind, _ in compounds if kind == "namespace" and (name == "sp" or public(name))}
    for name, kind, compound in compounds:
        if kind in KINDS and name.rpartition("::")[0] in namespaces:
            add(name, compound)
        if kind == "namespace" and name in namespaces:
            for member in compound.iter("memberdef"):
                add(f"{name}::{member.findtext('name')}", member)
    return {name: value for name, value in found.items() if public(name)}


def xml_root(path):
    return xml.etree.ElementTree.parse(path).getroot()


def check(options, include, out, landmarks=LANDMARKS):
    complaints = run_doxygen(options, include, out)
    if complaints:
        return complaints, 0
    names = names_in(out / "xml")
    complaints = [f"{name} is in the headers, but not in the manual" for name in sorted(landmarks - set(names))]
    complaints += [f"{where}: {name} has no comment" for name, (has, where) in sorted(names.items()) if not has]
    return complaints, len(names)


def self_test(options):
    clean = "/// A thing.\nstruct thing {};\n/// Takes x.\n/// @param x a number\nvoid take(int x);\n"
    planted = {
        "argument 'y' of command @param is not found": clean.replace("@param x", "@param y"),
        "sp::thing has no comment": clean.replace("/// A thing.\n", ""),
        "sp::take has no comment": clean[: clean.index("/// Takes")] + "void take(int x);\n",
        "sp::inner::bare has no comment": clean + "/// A part.\nnamespace inner { struct bare {}; }\n",
        "sp::gone is in the headers, but not in the manual": None,
    }
    failures = []
    for expected, text in [(None, clean), *planted.items()]:
        folder = options.out / "self_test"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "include" / "sp").mkdir(parents=True)
        body = clean if text is None else text
        (folder / "include" / "sp" / "thing.hpp").write_text(f"#pragma once\n/// Everything.\nnamespace sp {{\n{body}}}\n")
        landmarks = {"sp::gone"} if text is None else set()
        complaints, _ = check(options, folder / "include", folder / "out", landmarks)
        if expected is None and complaints:
            failures.append(f"clean comments are refused: {complaints}")
        elif expected is not None and not any(expected in c for c in complaints):
            failures.append(f"planted '{expected}' was not found, only {complaints}")
    print("\n".join(failures) or f"{len(planted)} planted faults found, clean comments accepted")
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--doxygen", required=True)
    parser.add_argument("--settings", required=True, type=pathlib.Path)
    parser.add_argument("--include", type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--version", default="0")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        sys.exit(self_test(options))
    complaints, count = check(options, options.include, options.out)
    print("\n".join(complaints) or f"the manual has {count} public names, each with a comment: {options.out}/html/index.html")
    sys.exit(1 if complaints or not count else 0)


if __name__ == "__main__":
    main()
