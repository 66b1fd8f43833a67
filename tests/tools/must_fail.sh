#!/usr/bin/env bash
# must_fail.sh TEXT COMMAND...: succeeds when the command fails and prints TEXT.
# For controls: a check is believed because it was seen to fail.
set -uo pipefail
text=$1
shift
output=$("$@" 2>&1)
code=$?
printf '%s\n' "$output"
if ((code == 0)); then
  echo "must_fail: the command succeeded" >&2
  exit 1
fi
if [[ $output != *"$text"* ]]; then
  echo "must_fail: the command failed, but did not print: $text" >&2
  exit 1
fi
echo "must_fail: failed as expected, exit status $code"
