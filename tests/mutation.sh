#!/usr/bin/env bash
# The mutation score: bugs made by hand and planted in copies of the headers, alone or behind switches, each to be caught by the test meant
# for it.
# Arguments: names of bugs (all by default), --sample, --list, --jobs N, --build DIR, --self-test. Exit status 0 only if every
# one is caught.
set -euo pipefail
exec python3 "$(dirname "${BASH_SOURCE[0]}")/mutation/score.py" "$@"
