#!/usr/bin/env bash
# Runs in the test machine, as root: the machine's own tests, then suites that were built on the host.
# The last line says how it went; without it the host takes it as failed.
set -uo pipefail
cd /payload || exit
export AMPOULE_DATA_DIR=/payload/data
cp bin/ampoule /usr/local/bin/

# The suites know the paths that they were built with.
target=$(cat target)
mkdir -p "$target/debug" "$target/tmp"
ln -s /payload/bin/ampoule "$target/debug/ampoule"
chmod 1777 "$target/tmp"

failed=0
# step NAME SECONDS COMMAND...: runs a command under a time limit and notes how it went.
step() {
    local name=$1 limit=$2 code=0
    shift 2
    printf '\n== %s\n' "$name"
    SECONDS=0
    timeout --kill-after=10 "$limit" "$@" || code=$?
    printf '== %s: exit code %s in %ss\n' "$name" "$code" "$SECONDS"
    [ "$code" = 0 ] || failed=1
}

printf '== Linux %s up after %ss; controllers: %s; security modules: %s\n' "$(uname -r)" \
    "$(cut -d. -f1 /proc/uptime)" "$(cat /sys/fs/cgroup/cgroup.controllers)" \
    "$(cat /sys/kernel/security/lsm)"

mapfile -t names <names
step 'control groups' 600 python3 -u guest/control_groups.py "${names[@]}"
if [ ${#names[@]} = 0 ]; then
    service=(systemd-run --quiet --pipe --wait -p Delegate=yes
        --setenv=AMPOULE_DATA_DIR="$AMPOULE_DATA_DIR" --working-directory=/tmp)
    native=(/payload/bin/native --color=never --test-threads=4)
    # skip NAME REASON...: leaves a test of the native suite out, aloud.
    skip() {
        printf '== not run here: %s: %s\n' "$1" "${*:2}"
        native+=(--skip "$1")
    }
    echo
    skip the_heap_meets_the_memory_limit filling a heap takes longer than its 20 seconds under emulation
    skip many_at_once_are_all_answered_right 12 interpreters at once take longer to start than 10 seconds
    step 'native suite as root' 300 "${service[@]}" "${native[@]}"
    step 'native suite as a user' 300 "${service[@]}" --uid=plain "${native[@]}"
    step 'command suite as root' 300 "${service[@]}" /payload/bin/command --color=never --test-threads=2
fi

if [ "$failed" = 0 ]; then echo 'verdict: ok'; else echo 'verdict: failed'; fi
