#!/usr/bin/env bash
# Builds and runs the tests: installs what is missing, configures, builds, and ends with CTest's own summary.
# tests/run.sh [--all] [argument of ctest]...: tests/run.sh -R geometry. --all, anywhere: everything there is, also what takes long.
# clang compiles the tests, in half the time; g++ those of --all. SP_JOBS sets how many jobs run at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=dev
arguments=()
for argument in "$@"; do
  case $argument in
    --all) preset=all ;;
    *) arguments+=("$argument") ;;
  esac
done
cmake/bootstrap.sh tests
jobs=${SP_JOBS:-$(nproc)}
compiler=()
if [[ $preset == dev ]] && ! command -v clang++-16 >/dev/null; then
  for newer in clang++-17 clang++-18 clang++-19; do
    if command -v $newer >/dev/null; then compiler=("-DCMAKE_CXX_COMPILER=$newer") && break; fi
  done
fi
cmake --preset $preset ${compiler[@]+"${compiler[@]}"}
cmake --build --preset $preset --parallel "$jobs"
# Tests wait for a third of their time: for each other, for deadlines, for files.
exec ctest --preset $preset --parallel $((jobs + jobs / 2)) --no-label-summary "${arguments[@]}"
