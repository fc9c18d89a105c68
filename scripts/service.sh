#!/usr/bin/env bash
# The service in the background: its process id and its log are under .data/.
#
#   service.sh start BINARY | stop | logs
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

READY_SECONDS=60
# The grace of a shutdown, what cancelling takes, and some more.
STOP_SECONDS=45

# Prints the process id of the service that was started here, if it lives.
running() {
    local pid
    pid=$(cat "$PIDFILE" 2>/dev/null) || return 1
    # A process id may have been given to somebody else meanwhile.
    [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = ampoule ] || return 1
    # A zombie, in a container whose first process does not reap, has ended.
    ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null || return 1
    printf '%s\n' "$pid"
}

# Asks /readyz; prints the body, and fails unless the status is 200.
ready() {
    python -I -c '
import sys, urllib.error, urllib.request
try:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    print(opener.open(sys.argv[1] + "/readyz", timeout=5).read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
    sys.exit(1)
except OSError as error:
    print(error)
    sys.exit(1)
' "$(base_url)"
}

# Whether neither a variable nor the operator's file sets a key. A bad configuration sets it too:
# the service will say what is wrong.
is_default() {
    local binary=$1 key=$2
    "$binary" config --json 2>/dev/null | python -I -c '
import json, sys
settings = json.load(sys.stdin)["settings"]
sources = [each["source"]["kind"] for each in settings if each["key"] == sys.argv[1]]
sys.exit(0 if sources == ["default"] else 1)
' "$key" 2>/dev/null
}

show_log() {
    printf -- '--- the end of %s\n' "$LOG" >&2
    tail -n 40 "$LOG" >&2
    printf -- '---\n' >&2
}

start() {
    local binary=$1 pid answer=''
    if pid=$(running); then
        say "the service is running already (process $pid)"
        return
    fi
    mkdir -p "$STATE"
    : >"$LOG"
    say "starting the service on $LISTEN"
    if [ "$(id -u)" != 0 ] && is_default "$binary" native.allow_missing; then
        # Used where this user can have one; a service of yours says so itself if it may do without.
        export AMPOULE_NATIVE_ALLOW_MISSING=cgroup
        say 'as an ordinary user: where no control group can be had, a watch counts instead'
    fi
    # In a session of its own: a Ctrl-C here is for us, and we stop the service in order.
    setsid "$binary" serve --listen "$LISTEN" --log-format text </dev/null >>"$LOG" 2>&1 &
    pid=$!
    printf '%s\n' "$pid" >"$PIDFILE"
    SECONDS=0
    while ! answer=$(ready) || ! kill -0 "$pid" 2>/dev/null; do
        if ! kill -0 "$pid" 2>/dev/null; then
            rm -f "$PIDFILE"
            show_log
            fail 'the service ended instead of becoming ready'
        fi
        if [ "$SECONDS" -ge "$READY_SECONDS" ]; then
            show_log
            stop
            fail "the service is not ready after $READY_SECONDS seconds: $answer"
        fi
        printf '   waiting until each language has run (%ss): %s\n' "$SECONDS" "$answer"
        sleep 0.5
    done
    say "ready at $(base_url) (process $pid, log $LOG)"
}

stop() {
    local pid
    if ! pid=$(running); then
        rm -f "$PIDFILE"
        return
    fi
    say "stopping the service (process $pid)"
    kill -TERM "$pid"
    SECONDS=0
    while running >/dev/null; do
        if [ "$SECONDS" -ge "$STOP_SECONDS" ]; then
            kill -KILL "$pid"
            rm -f "$PIDFILE"
            show_log
            fail "the service did not stop within $STOP_SECONDS seconds and was killed"
        fi
        sleep 0.1
    done
    rm -f "$PIDFILE"
    say 'stopped'
}

logs() {
    [ -f "$LOG" ] || fail "there is no log at $LOG; \`make start\` starts the service"
    if [ -t 1 ]; then
        exec tail -n 50 -F "$LOG"
    fi
    exec tail -n 200 "$LOG"
}

case ${1:-} in
    start) start "$2" ;;
    stop) stop ;;
    logs) logs ;;
    *) fail 'usage: service.sh start BINARY | stop | logs' ;;
esac
