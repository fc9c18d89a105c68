#!/usr/bin/env bash
# Proves control groups v2 on Debian's own kernel, in an emulated machine: no KVM, no network.
#
#   run.sh                all that runs there
#   run.sh NAME...        some of its own tests only, by names as Python's unittest takes them
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../../scripts/common.sh"

here=$ROOT/tests/setups/vm
cache=$STATE/vm
# The longest that the machine may run, in seconds.
most=2400
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}

prerequisites() {
    local missing=()
    if ! command -v apt-get >/dev/null || [ "$(uname -m)" != x86_64 ]; then
        fail 'the test machine is made of Debian packages for x86_64; run this on such a system'
    fi
    command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    [ "$(id -u)" = 0 ] ||
        fail "making the test machine's disk needs root (debootstrap); run \`sudo make test-vm\`${missing:+, which installs ${missing[*]}}"
    [ ${#missing[@]} = 0 ] && return
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    timeout 300 apt-get update </dev/null
    timeout 900 apt-get install -y --no-install-recommends "${missing[@]}" </dev/null
}

# The machine's disk, kernel and first file system: made once, and again when what they are made of
# changes. Gives the directory.
machine() {
    local node key
    # The program itself, where a version manager puts a script before it.
    node=$(PATH=/usr/bin:$PATH "${AMPOULE_NODE_BIN:-node}" -p process.execPath)
    key=$({ cat "$here/make-root.sh" "$here/guest/tests.service" /etc/os-release && "$node" --version; } |
        sha256sum | cut -c1-12)
    if [ ! -e "$cache/$key/root.img" ]; then
        rm -rf "$cache"
        mkdir -p "$cache/$key"
        "$here/make-root.sh" "$cache/$key" "$node" >&2 || return
    fi
    printf '%s\n' "$cache/$key"
}

# A test program of the providers.
built() {
    cargo test --no-run --locked --package ampoule-providers --test "$1" 2>&1 |
        sed -n 's/^ *Executable .* (\(.*\))$/\1/p'
}

# A second disk with what is tested, so that the first stays as it is.
make_payload() {
    local disk=$1 payload=$work/payload
    shift
    mkdir -p "$payload/bin" "$payload/data"
    cp -r "$here/guest" "$payload/"
    printf '%s\n' "$@" | sed '/^$/d' >"$payload/names"
    strip -o "$payload/bin/ampoule" "$CARGO_TARGET_DIR/debug/ampoule"
    strip -o "$payload/bin/native" "$(built native)"
    strip -o "$payload/bin/conformance" "$(built conformance_native)"
    [ ! -d "$AMPOULE_DATA_DIR/runtimes" ] || cp -r "$AMPOULE_DATA_DIR/runtimes" "$payload/data/"
    chmod -R a+rX "$payload"
    mke2fs -q -t ext4 -O ^has_journal -d "$payload" "$disk" 2G >/dev/null
}

prerequisites
say 'building the tests'
cargo build --locked --package ampoule-cli
cargo test --no-run --locked --package ampoule-providers --test native --test conformance_native
scripts/packages.sh "$CARGO_TARGET_DIR/debug/ampoule"
work=$(mktemp -d)
# However this ends, so does the machine: by this trap, or, if this script is killed, by the kernel.
clean_up() {
    jobs -p | xargs --no-run-if-empty kill 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
machine=$(machine)
make_payload "$work/payload.img" "$@"

say "starting the emulated machine (its console is in $cache/console.log)"
mkfifo "$work/said"
sed --unbuffered 's/\r$//' <"$work/said" | tee "$cache/result.log" &
printer=$!
# The disks stay as they are: what the machine writes is forgotten. In the background, so that a signal
# to this script is heard at once.
setpriv --pdeathsig TERM timeout --foreground --kill-after=10 "$most" qemu-system-x86_64 \
    -machine pc -accel tcg,thread=multi -cpu max -smp 2 -m 2048 \
    -nodefaults -display none -nic none -no-reboot -snapshot \
    -kernel "$machine/vmlinuz" -initrd "$machine/initrd.img" \
    -append 'console=ttyS0 root=/dev/vda rw panic=-1' \
    -drive "file=$machine/root.img,format=raw,if=virtio" \
    -drive "file=$work/payload.img,format=raw,if=virtio" \
    -serial "file:$cache/console.log" -serial stdio \
    </dev/null >"$work/said" &
emulator=$!
code=0
wait "$emulator" || code=$?
wait "$printer"
[ "$code" != 124 ] || fail "the machine was not done within ${most}s; its console is in $cache/console.log"
[ "$code" = 0 ] || fail "the emulator ended with exit code $code; see above and $cache/console.log"
grep -qx 'verdict: ok' "$cache/result.log" || fail "not everything holds there; see above and $cache/console.log"
