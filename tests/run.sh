#!/usr/bin/env bash
# Builds and runs the tests: installs what is missing, configures, builds, and ends with CTest's own summary.
# tests/run.sh [--all] [argument of ctest]...: tests/run.sh -R geometry. --all, anywhere: everything there is, also what takes long.
# SP_JOBS sets how many jobs run at once.
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
cmake --preset $preset
cmake --build --preset $preset --parallel "$jobs"
exec ctest --preset $preset --parallel "$jobs" --no-label-summary "${arguments[@]}"
