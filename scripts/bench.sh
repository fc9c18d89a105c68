#!/usr/bin/env bash
# Starts the service, measures, and stops it, whatever happens.
#
#   bench.sh BINARY ROUNDS
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# A second Ctrl-C must not leave the service behind.
trap 'trap "" INT TERM HUP; scripts/service.sh stop' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

scripts/service.sh stop
scripts/service.sh start "$1"
python -I scripts/bench.py --binary "$1" --url "$(base_url)" --rounds "$2" --json "$STATE/bench.json"
