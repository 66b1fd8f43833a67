#!/usr/bin/env bash
# The soak: 50,000 random differential cases, 10^6 ring steps under delays, 1,000 throws, 200 kills of real processes, memory.
# Prints progress and ends with a table of counts; exits non-zero on any mismatch, hang, late end, orphan, or growth of memory.
#
# soak.sh [--cases N] [--steps N] [--throws N] [--kills N] [--minutes M] [--jobs J] [--seed S]
#   --minutes M stops each part at its share of M minutes, whatever its total; without it the totals are reached.
# SP_SOAK_PROGRAMS names a folder with sp_soak and sp_soak_job to run instead of building them; SP_SOAK_LATENCY_MS (100) is how
# long a rank may take to end after a throw; SP_FUZZ_CORPUS is a file that failing cases are added to.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cases=50000 steps=1000000 throws=1000 kills=200 minutes=0 jobs=$(nproc) seed=$(date +%s)
while (($#)); do
  case $1 in
    --cases | --steps | --throws | --kills | --minutes | --jobs | --seed)
      [[ ${2-} =~ ^[0-9]+$ ]] || { echo "soak: $1 takes a number" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    *)
      sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
      exit 2
      ;;
  esac
done
((jobs >= 1)) || { echo "soak: --jobs is at least 1" >&2; exit 2; }
latency=${SP_SOAK_LATENCY_MS:-100}

programs=${SP_SOAK_PROGRAMS:-}
if [[ -z $programs ]]; then
  programs=$PWD/build/soak/tests
  cmake -S . -B build/soak -G Ninja -DCMAKE_BUILD_TYPE=Release -DSP_BUILD_EXAMPLES=OFF -DSP_BUILD_BENCH=OFF >/dev/null
  cmake --build build/soak --parallel "$jobs" --target sp_soak sp_soak_job
fi
[[ -x $programs/sp_soak ]] || { echo "soak: there is no sp_soak in $programs" >&2; exit 2; }

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
status=0 started=$SECONDS
seconds() { echo $((minutes * 60 * $1 / 100)); } # this part's share of the time, in percent; 0: no limit

# part <name> <total> <share>: <jobs> processes with a part of the total each, their output shown as it comes
part() {
  local name=$1 total=$2 limit pids=() i n
  limit=$(seconds "$3")
  ((total > 0)) || return 0
  echo "soak: $name, $total in $jobs processes, seed $seed"
  for ((i = 0; i < jobs; ++i)); do
    n=$((total * (i + 1) / jobs - total * i / jobs))
    ((n > 0)) || continue
    "$programs/sp_soak" "$name" --count "$n" --seed $((seed + i * 100000000)) --seconds "$limit" --latency "$latency" \
      > >(tee "$logs/$name.$i") 2>&1 &
    pids+=($!)
  done
  for i in "${pids[@]}"; do
    wait "$i" || { status=1; echo "soak: a process of part '$name' ended with status $?" >&2; }
  done
  wait # for tee
}
part cases "$cases" 40
part steps "$steps" 35
part throws "$throws" 5
if ((kills > 0)); then
  if [[ -x $programs/sp_soak_job ]] && command -v mpirun >/dev/null; then
    echo "soak: kills, $kills jobs"
    python3 tests/soak/kills.py "$programs/sp_soak_job" --count "$kills" --seed "$seed" --seconds "$(seconds 20)" \
      --mpirun "mpirun --oversubscribe --allow-run-as-root --mca mpi_yield_when_idle 1" > >(tee "$logs/kills") 2>&1 || status=1
    wait
  else
    echo "soak: no MPI: kills are left out" >&2
    status=1
  fi
fi

# The tallies are the last lines of the logs: a word and its number, again and again.
sum() { awk -v key="$2" '/^(cases|steps|throws|kills) /{for (i = 1; i < NF; i += 2) if ($i == key) n += $(i + 1)} END {printf "%d", n}' \
  "$logs"/"$1"* 2>/dev/null; }
most() { awk -v key="$2" '/^(cases|steps|throws|kills) /{for (i = 1; i < NF; i += 2) if ($i == key && $(i + 1) + 0 > n) n = $(i + 1) + 0} END {print n + 0}' \
  "$logs"/"$1"* 2>/dev/null; }

# Growth of the resident memory from after the warm-up to the end, of all processes of a part, in percent. These processes are small, and
# 1 % of one is a dozen pages: 256 kB for each are noise of stacks and malloc, while 16 bytes lost in every case would be more than
# that. A process that ran less than a minute has no steady state to compare with.
growth() {
  local first last
  first=$(sum "$1" rss_first) last=$(sum "$1" rss_last)
  if (($(most "$1" seconds | cut -d. -f1) < 60)); then
    echo "not judged: less than a minute"
  elif awk -v a="$first" -v b="$last" -v j="$jobs" 'BEGIN {exit !(b <= a * 1.01 || b <= a + 256 * j)}'; then
    awk -v a="$first" -v b="$last" 'BEGIN {printf "%+.2f %% (%+d kB)", (b - a) * 100 / a, b - a}'
  else
    awk -v a="$first" -v b="$last" 'BEGIN {printf "%+.2f %% (%+d kB) TOO MUCH", (b - a) * 100 / a, b - a}'
  fi
}

echo "soak: $((SECONDS - started)) s, seed $seed"
row() { printf '%-12s %10s  %s\n' "$@"; }
if ((cases > 0)); then row cases "$(sum cases cases)" "mismatches $(sum cases mismatches), memory $(growth cases)"; fi
if ((steps > 0)); then
  row "ring steps" "$(sum steps steps)" "hangs $(sum steps hangs), different $(sum steps different), errors $(sum steps errors), memory $(growth steps)"
fi
if ((throws > 0)); then
  row throws "$(sum throws throws)" "wrong $(sum throws wrong), later than $latency ms $(sum throws late), thread leaks $(sum throws leaks), slowest $(most throws slowest_ms) ms, memory $(growth throws)"
fi
if ((kills > 0)); then
  row kills "$(sum kills kills)" "wrong $(sum kills wrong), orphans $(sum kills orphans), slowest $(most kills slowest_s) s"
fi
for name in cases steps throws; do
  if ((${!name} > 0)) && [[ $(growth "$name") == *TOO* ]]; then status=1; fi
done
for name in cases steps throws kills; do # nothing may have been left out in silence
  ((${!name} > 0)) || continue
  if ((minutes == 0 ? $(sum "$name" "$name") < ${!name} : $(sum "$name" "$name") == 0)); then
    echo "soak: only $(sum "$name" "$name") of ${!name} $name" >&2
    status=1
  fi
done
if ((status == 0)); then echo "soak: passed"; else echo "soak: FAILED"; fi
exit $status
