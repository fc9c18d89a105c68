#!/usr/bin/env bash
# Checks what building and running needs. As root on Debian it installs what is missing with apt-get;
# as an ordinary user it says exactly what to install, all at once.
#
#   prerequisites.sh [--tests]    what the tests need beside, too
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

FOR_TESTS=${1:-}
RUST_NEEDED=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
NODE_NEEDED=20

missing=()       # what is wrong, for people
packages=()      # the Debian packages that mend it

# lack TEXT [PACKAGE...]: notes that something is missing, and the packages that would bring it.
lack() {
    missing+=("$1")
    shift
    packages+=("$@")
}

# at_least HAVE WANTED: compares versions by their numbers.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

# The first of the candidates that starts.
first() {
    local candidate
    for candidate in "$@"; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

debian_offers() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \(.*\)/\1/p'; }

look_for_rust() {
    local version
    if ! command -v cargo >/dev/null 2>&1; then
        lack "cargo: install Rust $RUST_NEEDED or newer with rustup (Debian's own is older)"
        return
    fi
    version=$(rustc --version | awk '{print $2}')
    at_least "$version" "$RUST_NEEDED" ||
        lack "Rust is $version: $RUST_NEEDED or newer is needed; run \`rustup update stable\`"
}

look_for_linker() {
    first "${CC:-}" cc gcc clang >/dev/null || lack 'a C linker' gcc libc6-dev
}

look_for_python() {
    local python version
    if ! python=$(first "${AMPOULE_PYTHON_BIN:-}" /usr/bin/python3 python3); then
        lack 'python3' python3 python3-pip
        return
    fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    at_least "$version" 3.11 ||
        lack "$python is $version: 3.11 or newer is needed; AMPOULE_PYTHON_BIN can name another"
    "$python" -m pip --version >/dev/null 2>&1 || first pip3 pip >/dev/null ||
        lack "pip (for $python)" python3-pip
}

look_for_node() {
    local node version offered hint
    offered=$(debian_offers nodejs)
    hint="Node.js $NODE_NEEDED or newer; this system's packages offer ${offered:-none}: install it from nodejs.org or with a version manager; AMPOULE_NODE_BIN can name it"
    if ! node=$(first "${AMPOULE_NODE_BIN:-}" /usr/bin/node /usr/local/bin/node node); then
        if [ -n "$offered" ] && at_least "$offered" "$NODE_NEEDED"; then
            lack "Node.js $NODE_NEEDED or newer" nodejs npm
        else
            lack "$hint"
        fi
        return
    fi
    version=$("$node" --version | tr -d v)
    at_least "$version" "$NODE_NEEDED" || lack "$node is $version: $hint"
    [ -x "$(dirname "$(readlink -f "$(command -v "$node")")")/npm" ] ||
        command -v npm >/dev/null 2>&1 || lack 'npm' npm
}

look_for_tests() {
    # The runtime of Perl is a folder outside of the binary, which the tests add.
    perl -MJSON::PP -e 1 >/dev/null 2>&1 || lack 'Perl with JSON::PP' perl
    if [ "$(id -u)" = 0 ]; then
        # Networks of the tests' own, which only root can make, and the helper that is tried in them.
        command -v ip >/dev/null 2>&1 || lack 'ip' iproute2
        command -v slirp4netns >/dev/null 2>&1 || lack 'slirp4netns' slirp4netns
    fi
}

look() {
    missing=()
    packages=()
    look_for_rust
    look_for_linker
    look_for_python
    look_for_node
    if [ "$FOR_TESTS" = --tests ]; then
        look_for_tests
    fi
}

tell() {
    printf 'missing: %s\n' "${missing[@]}" >&2
}

say 'checking what is needed'
look
if [ ${#missing[@]} -gt 0 ] && [ ${#packages[@]} -gt 0 ] && [ "$(id -u)" = 0 ] &&
    command -v apt-get >/dev/null 2>&1; then
    tell
    say "installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    timeout 300 apt-get update </dev/null
    timeout 900 apt-get install -y --no-install-recommends "${packages[@]}" </dev/null
    look
fi
if [ ${#missing[@]} -gt 0 ]; then
    tell
    if [ ${#packages[@]} -gt 0 ]; then
        fail "install what is missing, on Debian with: sudo apt-get install ${packages[*]}"
    fi
    fail 'install what is missing, as said above'
fi
