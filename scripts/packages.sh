#!/usr/bin/env bash
# Installs the packages that programs find (numpy, pandas, matplotlib, requests, axios) from the locked
# lists, into the data directory. What is there already stays.
#
#   packages.sh BINARY
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

binary=$1

say "installing the packages that programs find into $AMPOULE_DATA_DIR"
timeout 1200 "$binary" runtimes install </dev/null
