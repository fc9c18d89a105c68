#!/usr/bin/env bash
# Prepares what the tests need and runs all of them, then says how many there were.
#
#   test.sh BINARY        the debug build that the tests use as well
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

binary=$1
mkdir -p "$STATE"
output=$STATE/test.log

say 'building the tests (the first build takes some minutes)'
cargo build --workspace --all-targets --locked
scripts/packages.sh "$binary"

say 'running the tests'
failed=0
# A suite whose positive control fails runs nothing else, and the others still say what they know.
timeout --kill-after=30 1500 cargo test --workspace --locked --no-fail-fast </dev/null 2>&1 |
    tee "$output" || failed=1

# Each suite ends in `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
awk '
    / passed; / {
        before = passed + failed + ignored
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed;/) passed += $(i - 1)
            if ($i ~ /^failed;/) failed += $(i - 1)
            if ($i ~ /^ignored;/) ignored += $(i - 1)
        }
        if (passed + failed + ignored > before) suites++
    }
    /^positive control .* failed/ { controls++ }
    END {
        printf "== %d passed, %d failed, %d ignored or skipped in %d suites", passed, failed, ignored, suites
        if (controls) printf "; the positive control of %d more failed, so they were not run", controls
        printf "\n"
        if (!passed) exit 1
    }
' "$output" || failed=1
if [ "$failed" != 0 ]; then
    grep -aE '(^test .* FAILED$|^positive control)' "$output" | sed 's/  *\.\.\. FAILED/ FAILED/' | sort -u >&2 || true
    fail "the tests failed; the whole output is in $output"
fi
