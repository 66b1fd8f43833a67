#!/usr/bin/env bash
# tidy.sh CLANG_TIDY SOURCE FLAGS...: lints one source and the headers of sp it includes.
# Prints the complaints only, not the count of those suppressed in foreign headers.
set -uo pipefail
tidy=$1
source=$2
shift 2
output=$("$tidy" --quiet "$source" -- "$@" 2> >(grep -v 'warnings\? generated\.$' >&2))
code=$?
[[ -n $output ]] && printf '%s\n' "$output"
exit "$code"
