#!/usr/bin/env bash
# Checks the format of all sources with clang-format 14 and shows what differs; --fix rewrites them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

format=$(command -v clang-format-14 || command -v clang-format)
mapfile -t files < <(find include tests examples bench -name '*.hpp' -o -name '*.cpp' | sort)
if [[ ${1:-} == --fix ]]; then
  "$format" -i "${files[@]}"
  exit
fi
if "$format" --dry-run -Werror "${files[@]}" 2>/dev/null; then # one process for all: starting it costs more than a file
  echo "${#files[@]} files are formatted"
  exit
fi
bad=0
for file in "${files[@]}"; do
  if ! difference=$(diff -u --label "$file" --label "$file, formatted" "$file" <("$format" "$file")); then
    head -n 12 <<<"$difference"
    bad=$((bad + 1))
  fi
done
echo "$bad of ${#files[@]} files are not formatted"
((bad == 0)) || { echo "tests/tools/format.sh --fix rewrites them" && exit 1; }
