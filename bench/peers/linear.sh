#!/usr/bin/env bash
# Compares gated_delta with the function that transformers takes without its GPU kernels: bench/peers/linear.sh [--python P] [--rounds N].
# Builds bench_linear, installs torch and transformers from PyPI into build/peers unless P, a Python that has them, is given, and runs
# both in turns: the same shapes, float, one thread each. More options: bench/peers/linear_torch.py --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

python='' options=()
while (($#)); do
  case $1 in
  --python) python=$2 && shift ;;
  *) options+=("$1") ;;
  esac
  shift
done
"$root/cmake/bootstrap.sh" examples
(
  cd "$root" # presets are read from the current folder; the program itself starts where the caller stands
  cmake --preset release >/dev/null
  cmake --build --preset release --parallel "${SP_JOBS:-$(nproc)}" --target bench_linear
)
if [[ -z $python ]]; then
  python=$root/build/peers/bin/python
  [[ -x $python ]] || python3 -m venv "$root/build/peers"
  "$python" -c 'import torch, transformers' 2>/dev/null || "$python" -m pip install --quiet torch transformers
fi
exec "$python" "$root/bench/peers/linear_torch.py" --bench "$root/build/release/bench/bench_linear" ${options[@]+"${options[@]}"}
