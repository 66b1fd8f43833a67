#!/usr/bin/env bash
# check.sh [--all]: the models under all schedules of their processes, by spin: no deadlock, no failed assertion, every state visited.
# Up to three ranks, with --all up to five.
# Planted faults must be found, or the models would prove nothing. Exit code 77 means: not run, spin is not installed.
set -euo pipefail
all=${1:+yes}
folder=$(cd "$(dirname "$0")" && pwd)
for tool in spin cc; do
  command -v "$tool" >/dev/null || { echo "skipped: no $tool in PATH"; exit 77; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# search <model> <macro>...: runs the verifier; its report is in report.txt. Most have so few states that they are visited sooner than
# a verifier is optimised, or than its usual table of 2^24 places is cleared.
search() {
  local model=$1 optimise=-O0
  shift
  [[ "$*" != -DP=4* && "$*" != *-DP=5* ]] || optimise=-O1
  rm -rf ./*
  spin -a "$@" "$folder/$model.pml" >spin.log 2>&1 || { cat spin.log >&2; exit 1; }
  cc "$optimise" -w -DSAFETY -DCOLLAPSE -DMEMLIM=4096 -o pan pan.c
  ./pan -w20 -m100000 >report.txt 2>&1 || true
}

# holds <model> <macro>...
holds() {
  search "$@"
  local states
  states=$(awk '/states, stored/ { print $1 }' report.txt)
  if ! grep -q 'errors: 0$' report.txt || grep -qE 'Search not completed|too small|out of memory|max search depth' report.txt; then
    echo "FAILED: $*" >&2
    cat report.txt >&2
    exit 1
  fi
  echo "holds: $* ($states states)"
}

# found <text> <model> <macro>...: the planted fault is reported with this text
found() {
  local text=$1
  shift
  search "$@"
  if ! grep -q 'errors: 1$' report.txt || ! grep -qF "$text" report.txt; then
    echo "FAILED: the planted fault of '$*' was not found" >&2
    cat report.txt >&2
    exit 1
  fi
  echo "found: $* ($(grep -m1 '^pan:1:' report.txt))"
}

for cap in 0 1; do
  for ranks in 2 3 ${all:+4 5}; do
    holds ring -DFORWARD -DP=$ranks -DCAP=$cap
    holds all_to_all -DPAIRWISE -DP=$ranks -DCAP=$cap
  done
  for ranks in 2 3 ${all:+4}; do holds ring -DP=$ranks -DCAP=$cap; done
  for ranks in 2 3; do holds all_to_all -DP=$ranks -DCAP=$cap; done
done
[[ -z $all ]] || holds all_to_all -DP=4 -DCAP=0

for ranks in 2 3 ${all:+4}; do
  found "invalid end state" ring -DP=$ranks -DCAP=0 -DBUG=1
  found "invalid end state" all_to_all -DP=$ranks -DCAP=0 -DBUG=1
done
found "assertion violated" ring -DP=3 -DCAP=0 -DBUG=2
found "assertion violated" ring -DP=3 -DCAP=1 -DBUG=3
found "assertion violated" ring -DP=3 -DCAP=1 -DBUG=4
found "assertion violated" all_to_all -DP=3 -DCAP=1 -DBUG=2
holds ring -DP=3 -DCAP=1 -DBUG=1 # the very program that needs a slot, with one
