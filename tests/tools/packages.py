#!/usr/bin/env python3
"""Checks the recipes in cmake/packaging without network or package managers: one version, one name, fields that their tools demand.
The version is the one of include/sp/version.hpp; the changelog has to tell of it.

packages.py ROOT          checks the tree
packages.py --self-test ROOT   plants faults in a copy of the checked files and demands that each is found
"""
import ast
import json
import pathlib
import re
import shutil
import sys
import tempfile

PACKAGING = pathlib.Path("cmake/packaging")
VCPKG = PACKAGING / "vcpkg/sp-attention"
CONAN = PACKAGING / "conan"
SPACK = PACKAGING / "spack/spack_repo/sp_attention"
NAME = "sp-attention"
LICENSE = "Apache-2.0"
FILES = ["include/sp/version.hpp", "CMakeLists.txt", "CHANGELOG.md", "LICENSE", str(PACKAGING), "cmake/SpComponents.cmake", "cmake/SpInstall.cmake"]
# Options of CMakeLists.txt that no package may leave at their default, which is for developers.
SWITCHED_OFF = ["SP_BUILD_TESTS", "SP_BUILD_EXAMPLES", "SP_BUILD_BENCH", "SP_INSTALL_SINGLE_HEADER"]


def version_of(root):
    text = (root / "include/sp/version.hpp").read_text()
    return ".".join(re.findall(r"^#define SP_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", text, re.MULTILINE))


def components_of(root):
    names = re.search(r"^set\(sp_components ([^)]*)\)", (root / "cmake/SpComponents.cmake").read_text(), re.MULTILINE)
    return names[1].split() if names else []


def check_version(root, version):
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield f"include/sp/version.hpp: version '{version}' is not major.minor.patch"
    if re.search(r"project\(sp VERSION [0-9]", (root / "CMakeLists.txt").read_text()):
        yield "CMakeLists.txt: project() writes a version of its own; it has to take the one of the header"
    if not re.search(rf"^## {re.escape(version)}\b", (root / "CHANGELOG.md").read_text(), re.MULTILINE):
        yield f"CHANGELOG.md: no section '## {version}'"


def check_vcpkg(root, version):
    port = root / VCPKG
    manifest = json.loads((port / "vcpkg.json").read_text())
    for field, wanted in [("name", NAME), ("version-semver", version), ("license", LICENSE)]:
        if manifest.get(field) != wanted:
            yield f"vcpkg.json: {field} is {manifest.get(field)!r} instead of {wanted!r}"
    known = {"name", "version-semver", "port-version", "description", "homepage", "license", "supports", "dependencies", "features", "default-features"}
    for field in sorted(set(manifest) - known):
        yield f"vcpkg.json: vcpkg knows no field {field}"
    hosts = {d["name"] for d in manifest.get("dependencies", []) if isinstance(d, dict) and d.get("host")}
    for needed in ("vcpkg-cmake", "vcpkg-cmake-config"):
        if needed not in hosts:
            yield f"vcpkg.json: {needed} has to be a host dependency"
    if sorted(manifest.get("features", {})) != sorted(components_of(root)):
        yield f"vcpkg.json: features {sorted(manifest.get('features', {}))}, components {sorted(components_of(root))}"
    for name, feature in manifest.get("features", {}).items():
        if not feature.get("description"):
            yield f"vcpkg.json: feature {name} has no description"
    portfile = (port / "portfile.cmake").read_text()
    for call in ("vcpkg_cmake_configure", "vcpkg_cmake_install", "vcpkg_cmake_config_fixup", "vcpkg_fixup_pkgconfig", "vcpkg_install_copyright"):
        if f"{call}(" not in portfile:
            yield f"portfile.cmake: does not call {call}"
    yield from switched_off("portfile.cmake", [o for o in SWITCHED_OFF if f"-D{o}=OFF" in portfile])
    if "sp::sp" not in (port / "usage").read_text():
        yield "usage: does not name the target sp::sp"


def switched_off(name, found):
    for option in SWITCHED_OFF:
        if option not in found:
            yield f"{name}: {option} is not switched off"


def class_of(path, base):
    """Name and body of the one class derived from `base`, as a syntax tree: nothing is imported or run."""
    tree = ast.parse(path.read_text(), str(path))
    found = [n for n in tree.body if isinstance(n, ast.ClassDef) and any(getattr(b, "id", "") == base for b in n.bases)]
    return found[0] if len(found) == 1 else None


def attributes(node):
    pairs = {}
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            try:
                pairs[item.targets[0].id] = ast.literal_eval(item.value)
            except ValueError:
                pairs[item.targets[0].id] = None
    return pairs


def strings(node):
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def check_conan(root, version):
    recipe = class_of(root / CONAN / "conanfile.py", "ConanFile")
    if not recipe or not class_of(root / CONAN / "test_package/conanfile.py", "ConanFile"):
        yield "conanfile.py: recipe and test package have to hold one class derived from ConanFile each"
        return
    has = attributes(recipe)
    for field, wanted in [("name", NAME), ("license", LICENSE), ("package_type", "header-library")]:
        if has.get(field) != wanted:
            yield f"conanfile.py: {field} is {has.get(field)!r} instead of {wanted!r}"
    if "version" in has:
        yield "conanfile.py: writes a version of its own; set_version reads the header"
    methods = {item.name for item in recipe.body if isinstance(item, ast.FunctionDef)}
    for method in sorted({"set_version", "export_sources", "validate", "package_id", "package", "package_info"} - methods):
        yield f"conanfile.py: has no {method}()"
    yield from switched_off("conanfile.py", strings(recipe))


def check_spack(root, version):
    text = (root / SPACK / "repo.yaml").read_text()
    if "namespace: sp_attention" not in text or not re.search(r"^  api: v2\.\d+$", text, re.MULTILINE):
        yield "repo.yaml: namespace sp_attention and an api of version 2 are expected"
    recipe = class_of(root / SPACK / "packages/sp_attention/package.py", "CMakePackage")
    if not recipe or recipe.name != "SpAttention":
        yield "package.py: package sp-attention has to be the class SpAttention, derived from CMakePackage"
        return
    if not ast.get_docstring(recipe):
        yield "package.py: the class has no description"
    calls = [(n.value.func.id, n.value) for n in recipe.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
    first = {}
    for name, call in calls:
        first.setdefault(name, []).append(call.args[0].value)
    if version not in first.get("version", []):
        yield f"package.py: no version {version}, only {first.get('version', [])}"
    if first.get("license") != [LICENSE]:
        yield f"package.py: license is {first.get('license')}"
    if "cxx" not in first.get("depends_on", []):
        yield "package.py: does not depend on cxx"
    if sorted(first.get("variant", [])) != sorted(components_of(root)):
        yield f"package.py: variants {first.get('variant', [])}, components {components_of(root)}"
    yield from switched_off("package.py", strings(recipe))


def check_components(root, version):
    for name in components_of(root):
        if not (root / f"cmake/sp-component-{name}.cmake").is_file():
            yield f"cmake/SpComponents.cmake: component {name} has no file cmake/sp-component-{name}.cmake"
    if not components_of(root):
        yield "cmake/SpComponents.cmake: no component found"


def check(root):
    version = version_of(root)
    return [c for part in (check_version, check_components, check_vcpkg, check_conan, check_spack) for c in part(root, version)]


def self_test(root):
    version = version_of(root)
    major, minor, _ = version.split(".")
    planted = {
        "no section '## ": ("include/sp/version.hpp", f"SP_VERSION_MINOR {minor}", f"SP_VERSION_MINOR {int(minor) + 1}"),
        "version-semver is": (VCPKG / "vcpkg.json", f'"{version}"', f'"{int(major) + 7}.0.0"'),
        "vcpkg knows no field": (VCPKG / "vcpkg.json", '"supports"', '"suports"'),
        "features []": (VCPKG / "vcpkg.json", '"features"', '"default-features"'),
        "does not call vcpkg_fixup_pkgconfig": (VCPKG / "portfile.cmake", "vcpkg_fixup_pkgconfig()", ""),
        "portfile.cmake: SP_BUILD_TESTS is not": (VCPKG / "portfile.cmake", "-DSP_BUILD_TESTS=OFF", ""),
        "has no set_version()": (CONAN / "conanfile.py", "def set_version", "def other"),
        "conanfile.py: SP_BUILD_BENCH is not": (CONAN / "conanfile.py", '"SP_BUILD_BENCH", ', ""),
        "package.py: no version": (SPACK / "packages/sp_attention/package.py", f'version("{version}"', 'version("9.9.9"'),
        "package.py: variants": (SPACK / "packages/sp_attention/package.py", 'variant("mpi"', 'variant("pmi"'),
        "has no file": ("cmake/SpComponents.cmake", "set(sp_components ", "set(sp_components telepathy "),
        "writes a version of its own": ("CMakeLists.txt", "project(sp VERSION ${sp_version}", "project(sp VERSION 1.2.3"),
    }
    failures = []
    for expected, change in [(None, None), *planted.items()]:
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder)
            for name in FILES:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (root / name).is_dir() else shutil.copy)(root / name, copy / name)
            for path in (root / "cmake").glob("sp-component-*.cmake"):
                shutil.copy(path, copy / "cmake")
            if change:
                path, before, after = copy / change[0], change[1], change[2]
                text = path.read_text()
                if before not in text:
                    failures.append(f"cannot plant '{expected}': {change[0]} does not hold {before}")
                path.write_text(text.replace(before, after))
            found = check(copy)
        if expected is None and found:
            failures.append(f"the tree is refused: {found}")
        elif expected is not None and not any(expected in complaint for complaint in found):
            failures.append(f"planted '{expected}' was not found, only {found}")
    print("\n".join(failures) or f"{len(planted)} planted faults found, the tree accepted")
    return 1 if failures else 0


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--self-test":
        return self_test(pathlib.Path(arguments[1]))
    if len(arguments) != 1:
        sys.exit(__doc__)
    root = pathlib.Path(arguments[0])
    found = check(root)
    print("\n".join(found) or f"version {version_of(root)}: vcpkg, Conan and Spack recipes, changelog and CMake agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
