#!/usr/bin/env bash
# Starts the service, runs the examples through it over HTTP, and stops it, whatever happens.
#
#   demo.sh BINARY
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# A second Ctrl-C must not leave the service behind.
trap 'trap "" INT TERM HUP; scripts/service.sh stop' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# One that still runs may be of an older build.
scripts/service.sh stop
scripts/service.sh start "$1"
python -I scripts/demo.py "$(base_url)" "$STATE/demo"
