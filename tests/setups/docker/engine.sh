# shellcheck shell=bash
# A Docker engine of our own, for tests: nothing of a system's engine is used or changed. Sourced,
# never run.
#
# The files of the base image are kept in $KEPT; the rest goes with the engine.

KEPT=$STATE/docker
PACKAGES=python3,slirp4netns
# Another set of packages is another image.
BASE=$KEPT/base-$PACKAGES.tar
export IMAGE=ampoule-tests

# install_engine: the engine and what makes an image, from the distribution.
install_engine() {
    local wanted=()
    command -v dockerd >/dev/null || wanted+=(docker.io)
    command -v debootstrap >/dev/null || wanted+=(debootstrap)
    command -v ip >/dev/null || wanted+=(iproute2)
    [ ${#wanted[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "${wanted[*]} is needed; hint: install it"
    say "installing ${wanted[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get update -q
    # Nothing is to be started here by whoever installs a service.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends "${wanted[@]}"
}

# make_base: the image's files, as $BASE: a small Debian of this machine's own release, so that the
# binary that was built here finds its libraries, with Python, a network helper and this machine's
# Node.js.
make_base() {
    [ ! -e "$BASE" ] || return 0
    local release mirror root=$KEPT/base.new
    # shellcheck source=/dev/null
    release=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    mirror=$(apt-get indextargets --format "\$(RELEASE) \$(COMPONENT) \$(REPO_URI)" 'Created-By: Packages' |
        awk -v release="$release" '$1 == release && $2 == "main" { print $3; exit }')
    [ -n "$mirror" ] || fail 'no source of packages was found; hint: apt-get update'
    say 'making the base image (a minute, once)'
    rm -rf "$root"
    debootstrap --variant=minbase "--include=$PACKAGES" "$release" "$root" "$mirror" >"$KEPT/base.log" 2>&1 ||
        fail "debootstrap failed; see $KEPT/base.log"
    install -m 755 "$(node -p process.execPath)" "$root/usr/bin/node"
    tar -C "$root" --exclude='./dev/*' --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
        -cf "$BASE.new" .
    rm -rf "$root"
    mv "$BASE.new" "$BASE"
}

# start_engine: starts it and waits until it answers; sets DOCKER_HOST.
start_engine() {
    mkdir -p "$KEPT"
    # Short, because sockets have their paths in here.
    ENGINE=$(mktemp -d /tmp/ampoule-docker.XXXXXX)
    DATA=$(mktemp -d "$KEPT/data.XXXXXX")
    GROUP=$(basename "$ENGINE")
    export ENGINE DOCKER_HOST=unix://$ENGINE/docker.sock
    printf '{}\n' >"$ENGINE/daemon.json"
    # No network, and no change to the machine's: containers here have a loopback and no more.
    dockerd --config-file "$ENGINE/daemon.json" --host "$DOCKER_HOST" --pidfile "$ENGINE/dockerd.pid" \
        --data-root "$DATA" --exec-root "$ENGINE/run" --cgroup-parent "/$GROUP" \
        --bridge none --iptables=false --ip-forward=false --ip-masq=false --userland-proxy=false \
        >"$ENGINE/log" 2>&1 &
    ENGINE_PID=$!
    for _ in {1..150}; do
        if docker version >/dev/null 2>&1; then
            return 0
        fi
        kill -0 "$ENGINE_PID" 2>/dev/null || break
        sleep 0.2
    done
    tail -n 20 "$ENGINE/log" >&2
    fail 'the Docker engine did not start'
}

# stop_engine: ends it with all its containers, and removes what it leaves.
stop_engine() {
    [ -n "${ENGINE_PID:-}" ] || return 0
    docker ps --all --quiet 2>/dev/null | xargs --no-run-if-empty docker rm --force >/dev/null 2>&1 || true
    kill "$ENGINE_PID" 2>/dev/null || true
    wait "$ENGINE_PID" 2>/dev/null || true
    # Network namespaces and, of an engine that was killed, roots stay mounted.
    awk -v one="$ENGINE/" -v other="$DATA/" \
        'index($5, one) == 1 || index($5, other) == 1 { print $5 }' /proc/self/mountinfo | sort --reverse |
        xargs --no-run-if-empty umount 2>/dev/null || true
    find /sys/fs/cgroup -depth -type d -path "*/$GROUP*" -exec rmdir {} + 2>/dev/null || true
    rm -rf "$ENGINE" "$DATA"
    ENGINE_PID=
}
