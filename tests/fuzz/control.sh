#!/usr/bin/env bash
# Controls for fuzz/target.sh: a target with a planted error fails from its corpus and by new inputs, and one without a corpus fails.
# control.sh <clang++> <folder>
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
compiler=$1 folder=$2
rm -rf "$folder"
mkdir -p "$folder/good" "$folder/bad" "$folder/none"
cat >"$folder/planted.cpp" <<'C'
#include <cstddef>
#include <cstdint>
extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  int sum = 2147483000;
  if (size > 2 && data[0] == 's' && data[1] == 'p') sum += data[2] == '!' ? 1000 : 0;
  return sum == 0;
}
C
"$compiler" -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all "$folder/planted.cpp" -o "$folder/planted"
printf 'a' >"$folder/good/a"
printf 'sp!' >"$folder/bad/b"

must_fail() { # <text> <corpus> <seconds>
  local out
  if out=$("$here/../tools/fixed_addresses.sh" "$here/target.sh" "$folder/planted" "$2" "$3" 2>&1); then
    echo "target.sh accepted $2" >&2
    exit 1
  fi
  [[ $out == *"$1"* ]] || { printf 'another failure of %s:\n%s\n' "$2" "$out" >&2; exit 1; }
}
must_fail "signed integer overflow" "$folder/bad" 1
must_fail "signed integer overflow" "$folder/good" 60
must_fail "is empty" "$folder/none" 1
echo "planted errors are caught"
