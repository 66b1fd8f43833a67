#!/usr/bin/env bash
# Installs the Debian packages that are missing, when root; otherwise prints the line to type, and fails if a command is missing:
# libraries may be there without their package, and CMake says so if not. Costs nothing when all is there.
# bootstrap.sh [examples|examples-mpi|tests]: what examples/run.sh needs, also for --mpi, or everything (default). SP_SKIP_BOOTSTRAP=1 skips the check.
set -euo pipefail

[[ ${SP_SKIP_BOOTSTRAP:-0} == 1 ]] && exit 0

# command|command...=package: any program of one of these names will do; libraries are asked for by package
commands=(g++=g++ cmake=cmake ninja=ninja-build)
libraries=(libfmt-dev libbenchmark-dev libeigen3-dev nlohmann-json3-dev libcli11-dev)
if [[ ${1:-tests} == examples-mpi ]]; then
  commands+=(mpirun=openmpi-bin)
  libraries+=(libopenmpi-dev)
fi
if [[ ${1:-tests} == tests ]]; then
  commands+=(python3=python3 git=git 'clang++-16|clang++-17|clang++-18|clang++-19=clang-16' ld.lld=lld clang-format-14=clang-format-14
    'clang-tidy-14|clang-tidy=clang-tidy' mpirun=openmpi-bin doxygen=doxygen spin=spin pkg-config=pkg-config)
  libraries+=(doctest-dev libclang-rt-16-dev libopenmpi-dev libboost-context-dev)
fi

programs=() packages=() # what is missing: packages of commands, packages of libraries
for entry in "${commands[@]}"; do
  IFS='|' read -ra names <<<"${entry%%=*}"
  command -v "${names[@]}" >/dev/null || programs+=("${entry#*=}")
done
if command -v dpkg-query >/dev/null; then
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${libraries[@]}" 2>/dev/null || true)
  for package in "${libraries[@]}"; do
    grep -qx "$package installed" <<<"$installed" || packages+=("$package")
  done
fi
missing=(${programs[@]+"${programs[@]}"} ${packages[@]+"${packages[@]}"})
((${#missing[@]})) || exit 0

install=(apt-get install -y --no-install-recommends "${missing[@]}")
if ! command -v apt-get >/dev/null || ((EUID != 0)); then
  echo "sp: missing: ${missing[*]}" >&2
  if command -v apt-get >/dev/null; then echo "sp: please run: sudo ${install[*]}" >&2; fi
  ((${#programs[@]} == 0)) || exit 1
  exit 0
fi

echo "sp: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for attempt in 1 2; do
  apt-get update -qq >/dev/null 2>&1 || true # one stale source must not stop the others
  if "${install[@]}" -qq -o DPkg::Lock::Timeout=120 >"$log" 2>&1 </dev/null; then exit 0; fi
  sleep $((attempt * 3))
done
tail -n 20 "$log" >&2
echo "sp: the installation failed; please run: ${install[*]}" >&2
exit 1
