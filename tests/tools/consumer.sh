#!/usr/bin/env bash
# consumer.sh find_package|add_subdirectory CMAKE CXX CONSUMERS SOURCE BUILD: builds and runs a project that uses sp.
# The installed tree is moved before it is used, so a path that was baked in at install time shows up as a failure.
set -euo pipefail
kind=$1 cmake=$2 cxx=$3 consumers=$4 source=$5 build=$6

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$consumers/main.cpp" "$consumers/check.cmake" "$consumers/$kind" "$work"
options=(-DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_BUILD_TYPE=Debug -G Ninja)
if [[ $kind == find_package ]]; then
  "$cmake" --install "$build" --prefix "$work/installed" >/dev/null
  mv "$work/installed" "$work/moved"
  if grep -rlF -e "$source" -e "$work/installed" "$work/moved"; then
    echo "consumer: the files above name the place where they were installed from or to" >&2
    exit 1
  fi
  diff -r "$source/include/sp" "$work/moved/include/sp" # every header is installed, nothing else
  options+=(-DCMAKE_PREFIX_PATH="$work/moved")
else
  options+=(-DSP_DIR="$source")
fi
"$cmake" -S "$work/$kind" -B "$work/build" "${options[@]}"
"$cmake" --build "$work/build"
"$work/build/consumer"
