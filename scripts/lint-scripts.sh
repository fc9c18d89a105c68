#!/usr/bin/env bash
# Checks the shell scripts.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if ! command -v shellcheck >/dev/null 2>&1; then
    say 'shellcheck is not installed: the shell scripts were not checked'
    exit 0
fi
# common.sh is checked where it is sourced.
find scripts tests runtimes -name '*.sh' ! -name common.sh -print0 |
    xargs -0 shellcheck --external-sources --source-path=SCRIPTDIR .ci/run
say 'the shell scripts are clean'
