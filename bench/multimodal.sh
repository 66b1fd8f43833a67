#!/usr/bin/env bash
# Builds bench_multimodal and runs it: bench/multimodal.sh [--out DIR] [--quick]. Attention of a vision-language model over 1, 2 and 4 ranks,
# 256 to 16384 patches and tokens: throughput, scaling, bytes against the closed forms, peak memory. Without --out it writes to build/report.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

out=(--out "$root/build/report")
for argument in "$@"; do
  [[ $argument != --out ]] || out=()
done
"$root/cmake/bootstrap.sh" examples
(
  cd "$root" # presets are read from the current folder; the program itself starts where the caller stands
  cmake --preset release >/dev/null
  cmake --build --preset release --parallel "${SP_JOBS:-$(nproc)}" --target bench_multimodal
)
exec "$root/build/release/bench/bench_multimodal" "$@" ${out[@]+"${out[@]}"}
