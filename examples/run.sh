#!/usr/bin/env bash
# Builds the trainer and runs it: examples/run.sh [--text PATH] [--out DIR] [--steps N]; --help lists the rest.
# Without --text it reads this repository, without --out it writes to build/report of this repository.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

"$root/cmake/bootstrap.sh" examples
(
  cd "$root" # presets are read from the current folder; the trainer itself starts where the caller stands
  cmake --preset release >/dev/null
  cmake --build --preset release --parallel "${SP_JOBS:-$(nproc)}" --target sp_trainer
)

out=(--out "$root/build/report")
for argument in "$@"; do
  [[ $argument == --out || $argument == --out=* ]] && out=()
done
exec "$root/build/release/examples/sp_trainer" "$@" ${out[@]+"${out[@]}"}
