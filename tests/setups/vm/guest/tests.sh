#!/usr/bin/env bash
# Runs in the test machine, as root: the machine's own tests, then suites that were built on the host.
# The last line says how it went; without it the host takes it as failed.
set -uo pipefail
cd /payload || exit
export AMPOULE_DATA_DIR=/payload/data
cp bin/ampoule /usr/local/bin/

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

# suite NAME PROGRAM REASONS OPTION...: runs a suite in a service with a delegated group, as systemd-run's
# OPTION says, without the tests of which REASONS (an array) says `name reason`; those are printed.
suite() {
    local name=$1 program=$2 entry
    local -n reasons=$3
    local skips=()
    shift 3
    printf '\n== not run in the %s:\n' "$name"
    printf '   %s\n' "${reasons[@]}"
    for entry in "${reasons[@]}"; do skips+=("--skip=${entry%% *}"); done
    # Two at once: more would wait for the two processors longer than an interpreter may take to start.
    step "$name" 360 systemd-run --quiet --pipe --wait -p Delegate=yes \
        --setenv=AMPOULE_DATA_DIR="$AMPOULE_DATA_DIR" --working-directory=/tmp "$@" \
        "/payload/bin/$program" --test-threads=2 --color=never "${skips[@]}"
}

# shellcheck disable=SC2034  # It is named to `suite`.
not_native=(
    'the_heap_meets_the_memory_limit   filling a heap takes longer than its 20 seconds under emulation'
    'zygotes::a_fork_is_as_an_exec     numpy and pandas take longer to import than anybody waits for a fork'
    'zygotes::chance_does_not_repeat   as above'
    'zygotes::harm_stays_in_its_run    as above'
    'zygotes::a_zygote_is_replaced_after_its_count   its pauses are shorter than a start under emulation'
    'zygotes::whatever_becomes_of_a_zygote_runs_go_on   it bounds each run by seconds, which emulation takes'
    'node_forks::                      the self-test takes minutes under emulation'
    'cold_                             the same tests run warm; both take longer than the suite has'
)
# shellcheck disable=SC2034  # As above.
not_conformance=(
    'runs_at_once_see_nothing_of_each_other::python   it locks device nodes, and a user has no own ones'
    'output_before_a_stop_is_kept::    an interpreter needs most of its 2 seconds to print under emulation'
    'a_run_that_was_stopped_leaves_no_process   its child has 3 seconds to start'
    'create_and_destroy::              many at once wait longer than an interpreter may take to start'
    'nothing_is_logged::               nothing of control groups; holds on every machine or on none'
    'output_beyond_the_limit::         as above'
    'text_is_utf8::                    as above'
    'undeclared_is_refused::           as above'
    'value_channel::                   as above'
)
# Of the command suite nothing is run: each of its services must be ready, with all fences tried and all
# examples run, within 20 seconds. What it asks of control groups is asked by control_groups.py.
mapfile -t names <names
step 'control groups' 1200 python3 -u guest/control_groups.py "${names[@]}"
if [ ${#names[@]} = 0 ]; then
    suite 'native suite as root' native not_native --uid=root
    suite 'conformance suite as a user' conformance not_conformance --uid=plain
    printf '\n== not run: the command suite, whose services have 20 seconds until they are ready\n'
    printf '== not run: the native suite as a user, whose control counts the fences of root\n'
fi

if [ "$failed" = 0 ]; then echo 'verdict: ok'; else echo 'verdict: failed'; fi
