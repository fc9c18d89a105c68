#!/usr/bin/env bash
# Tests Ampoule inside containers of a real Docker engine, which it starts and ends itself. As root.
#
#   test.sh BINARY              the tests
#   test.sh BINARY OPTIONS...   `docker run` with these options and command, to try something by hand;
#                               `$IMAGE` and `$PROFILE` are filled in
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../../scripts/common.sh"
. "$ROOT/tests/setups/docker/engine.sh"

binary=$1
shift
[ "$(id -u)" = 0 ] || fail 'an engine can only be started as root'
[ -x "$binary" ] || fail "$binary is not there; hint: cargo build"

install_engine
trap stop_engine EXIT
trap 'exit 130' INT TERM
start_engine
make_base
docker import - "$IMAGE" <"$BASE" >/dev/null
docker version --format '== Docker {{.Server.Version}} ({{range .Server.Components}}{{.Name}} {{.Version}} {{end}})'

export PROFILE=$ROOT/deploy/docker/seccomp.json
if [ $# = 0 ]; then
    python -I tests/setups/docker/cases.py "$binary"
else
    options=()
    for option in "$@"; do
        option=${option//\$IMAGE/$IMAGE}
        options+=("${option//\$PROFILE/$PROFILE}")
    done
    docker run --rm --init --network none --volume "$binary:/usr/local/bin/ampoule:ro" "${options[@]}"
fi
