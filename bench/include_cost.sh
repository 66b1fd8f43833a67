#!/usr/bin/env bash
# include_cost.sh [HEADER] [RUNS]: compile time of a header at -O0 over that of <vector>, <span> and <string>.
# Medians of interleaved runs of user time, without ccache; one line per compiler, with the bar for sp/ulysses.hpp.
set -euo pipefail
bar=2.5
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
header=${1:-sp/ulysses.hpp}
runs=${2:-9}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '#include <vector>\n#include <span>\n#include <string>\n' >"$work/base.cpp"
printf '#include <%s>\n' "$header" >"$work/header.cpp"

TIMEFORMAT='%U'
milliseconds() { # milliseconds COMPILER SOURCE: user time, which other programs on the machine disturb least
  { time "$1" -std=c++20 -O0 -I "$root/include" -c "$2" -o "$work/out.o"; } 2>&1 | awk 'END {printf "%d\n", 1000 * $1}'
}
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

for compiler in g++ clang++-16; do
  command -v "$compiler" >/dev/null || continue
  "$compiler" -std=c++20 -O0 -I "$root/include" -c "$work/header.cpp" -o "$work/out.o" # unmeasured: fills caches, shows errors
  for ((i = 0; i < runs; ++i)); do
    milliseconds "$compiler" "$work/base.cpp" >>"$work/$compiler.base"
    milliseconds "$compiler" "$work/header.cpp" >>"$work/$compiler.header"
  done
  base=$(median <"$work/$compiler.base")
  with=$(median <"$work/$compiler.header")
  awk -v c="$compiler" -v h="$header" -v b="$base" -v w="$with" -v bar="$bar" \
    'BEGIN {printf "%s: <%s> %d ms, <vector>+<span>+<string> %d ms, ratio %.2f, bar %.1f %s\n",
            c, h, w, b, w / b, bar, w / b <= bar ? "met" : "MISSED"}'
done
