#!/usr/bin/env bash
# packager.sh conan|vcpkg PROGRAM SOURCE CXX: makes the package with the real program, from a copy of the sources, and runs a consumer of it.
# Nothing is left behind in the sources or in the user's own settings and caches.
set -euo pipefail
kind=$1 program=$2 source=$3 cxx=$4

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sp/tests"
mkdir -p "$work/sp/examples"
cp -r "$source"/{CMakeLists.txt,LICENSE,cmake,include} "$work/sp"
cp -r "$source/examples/tools" "$work/sp/examples"
cp -r "$source/tests/consumers" "$work/sp/tests"

case $kind in
conan) # conan create builds and runs cmake/packaging/conan/test_package itself
  export CONAN_HOME="$work/conan" CXX="$cxx"
  "$program" profile detect
  "$program" create "$work/sp/cmake/packaging/conan" -s compiler.cppstd=20
  ;;
vcpkg) # needs VCPKG_ROOT, a clone of the registry that vcpkg is part of
  recipes="$work/sp/cmake/packaging/vcpkg"
  "$program" format-manifest "$recipes/sp-attention/vcpkg.json"
  cmp "$recipes/sp-attention/vcpkg.json" "$source/cmake/packaging/vcpkg/sp-attention/vcpkg.json" # it was in vcpkg's own form
  "$program" install sp-attention --overlay-ports="$recipes" --binarysource=clear --x-install-root="$work/installed" \
    --x-buildtrees-root="$work/buildtrees" --x-packages-root="$work/packages"
  prefix=$(dirname "$(dirname "$(dirname "$(find "$work/installed" -name sp-config.cmake)")")")
  cmake -S "$source/tests/consumers/find_package" -B "$work/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$cxx"
  cmake --build "$work/build"
  "$work/build/consumer"
  ;;
esac
