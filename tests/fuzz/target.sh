#!/usr/bin/env bash
# Runs a libFuzzer target: every file of its corpus, then new inputs for some seconds. target.sh <program> <corpus> <seconds>
# An input that fails is kept beside the program and named; memory and time of one input are bounded.
set -euo pipefail
program=$1 corpus=$2 seconds=$3
count=$(find "$corpus" -type f | wc -l)
((count > 0)) || { echo "the corpus $corpus is empty" >&2; exit 1; }

found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
options=(-timeout=5 -malloc_limit_mb=256 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 "-artifact_prefix=$program.failed.")
"$program" -runs=0 "${options[@]}" "$corpus" 2>&1 | sed '/^stat::/d'
echo "$count inputs of the corpus pass"
"$program" -seed=1 -max_total_time="$seconds" -max_len=300 "${options[@]}" "$found" "$corpus"
