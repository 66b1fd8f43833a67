#!/usr/bin/env bash
# Builds and runs every test: installs what is missing, configures, builds, and ends with CTest's own summary.
# Arguments go to ctest: tests/run.sh -R geometry. SP_JOBS sets how many jobs run at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cmake/bootstrap.sh tests
jobs=${SP_JOBS:-$(nproc)}
cmake --preset dev
cmake --build --preset dev --parallel "$jobs"
exec ctest --preset dev --parallel "$jobs" --no-label-summary "$@"
