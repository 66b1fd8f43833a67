#!/usr/bin/env bash
# What tests/gpu.sh makes of its steps, with a compiler and a GPU that are made up: its exit status, results.json, and what it leaves running.
# gpu_script_check.sh GPU.SH
set -uo pipefail
script=$1
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
mkdir -p "$there/tests" "$there/bin"
cp "$script" "$there/tests/gpu.sh"
cat >"$there/bin/nvidia-smi" <<'X'
#!/bin/bash
case "$*" in *driver*) echo 580.1 ;; *) echo 'A "GPU" \ of tests, 9.0' ;; esac
X
# Its programs do what $PROGRAM says.
cat >"$there/bin/nvcc" <<'X'
#!/bin/bash
[[ $1 == --version ]] && { echo "release 13.0, V13"; exit; }
[[ ${COMPILER:-} == hangs ]] && { sleep 100 & echo $! >"${0%/*}/../compiler"; wait; }
before=
for a in "$@"; do [[ $before == -o ]] && { printf '#!/bin/bash\neval "$PROGRAM"\n' >"$a" && chmod +x "$a"; }; before=$a; done
exit 0
X
chmod +x "$there"/bin/*
export PATH="$there/bin:$PATH" OUT="$there/out"
unset CUDA_VISIBLE_DEVICES SP_GPU_ARCH
bad=0
wrong() { echo "WRONG: $*"; bad=1; }
# expect STATUS TEXT ARGUMENTS...: the script ends so, says TEXT, and leaves numbers that are JSON
expect() {
  local said status
  said=$("$there/tests/gpu.sh" "${@:3}" 2>&1)
  status=$?
  ((status == $1)) || wrong "${*:3}: exit status $status, expected $1: $said"
  grep -q -e "$2" <<<"$said" || wrong "${*:3}: it does not say '$2': $said"
  python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["steps"][0])' "$OUT/results.json" >"$there/step" || wrong "no JSON"
}
export PROGRAM='echo "7 trials of \"quotes\" and \\ as they come"'
expect 0 "1 passed, 0 failed, 0 skipped" proofs
grep -q 'quotes" and' "$there/step" || wrong "the note is another one: $(cat "$there/step")"
PROGRAM='exit 3' expect 1 "exit 3" proofs
SP_GPU_SECONDS=1 expect 1 "nothing passed: nothing is proved" proofs
SP_GPU_SECONDS=1 expect 1 "0 passed, 1 failed, 0 skipped" --strict proofs
for seconds in 7 20 60; do # a machine that is busy may not come to the compiler in less
  COMPILER=hangs SP_GPU_SECONDS=$seconds expect 1 "the time was up before it was built" proofs
  [[ -e $there/compiler ]] && break
done
sleep 0.2
compiler=$(<"$there/compiler") || wrong "no compiler was started"
kill -0 "$compiler" 2>/dev/null && ! grep -q '^State:[[:space:]]*Z' "/proc/$compiler/status" && wrong "a compiler goes on" && kill "$compiler"
((bad == 0)) && echo "exit status, results and what is left running are right"
exit $bad
