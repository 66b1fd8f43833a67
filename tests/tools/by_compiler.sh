#!/usr/bin/env bash
# Runs a command of one compiler by another: by_compiler.sh CLANG GXX ARGUMENT...; leaves out what only g++ understands.
# CMake has one C++ compiler in a tree; programs that another one compiles in half the time are compiled and linked through this.
set -euo pipefail
compiler=$1
shift 2
arguments=()
for a in "$@"; do [[ $a == --param=* ]] || arguments+=("$a"); done
exec "$compiler" "${arguments[@]}"
