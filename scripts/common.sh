# shellcheck shell=bash
# What the scripts share. Sourced, never run.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT" || exit

# The state of the service started here: always inside the checkout.
STATE=$ROOT/.data
PIDFILE=$STATE/ampoule.pid
LOG=$STATE/ampoule.log

# Relative paths of the caller's are relative to the checkout.
AMPOULE_DATA_DIR=${AMPOULE_DATA_DIR:-$STATE}
case $AMPOULE_DATA_DIR in
    /*) ;;
    *) AMPOULE_DATA_DIR=$ROOT/$AMPOULE_DATA_DIR ;;
esac
export AMPOULE_DATA_DIR

# On a bare host RAGFlow's variable means the port; in a container it means compose's mapping, and
# the binary leaves it alone.
LISTEN=${AMPOULE_LISTEN:-127.0.0.1:${SANDBOX_EXECUTOR_MANAGER_PORT:-9385}}

say() { printf '== %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# The Python for our own scripts; the system's starts faster than a version manager's shim.
python() {
    if [ -x /usr/bin/python3 ]; then
        /usr/bin/python3 "$@"
    else
        python3 "$@"
    fi
}

# Where a client on this machine reaches the service.
base_url() {
    local host=${LISTEN%:*} port=${LISTEN##*:}
    case $host in
        0.0.0.0) host=127.0.0.1 ;;
        '[::]') host='[::1]' ;;
    esac
    printf 'http://%s:%s\n' "$host" "$port"
}
