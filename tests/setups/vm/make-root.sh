#!/usr/bin/env bash
# Makes the disk, the kernel and the first file system of the test machine from this machine's own
# Debian sources. Nothing is installed on this machine: the kernel comes with the new root.
#
#   make-root.sh DIRECTORY NODE      DIRECTORY gets root.img, vmlinuz, initrd.img; NODE is copied in
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../../scripts/common.sh"

directory=$1 node=$2
guest=$ROOT/tests/setups/vm/guest

# The kernel; what makes an init system with sessions of users; what programs and tests need.
PACKAGES=(
    linux-image-cloud-amd64
    systemd-sysv dbus dbus-user-session libpam-systemd
    python3 libstdc++6 libatomic1 openssl
)

# The same release as here, so that programs that were built here find what they are linked to.
codename=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
# Where this machine's own packages come from.
mirror=$(apt-get indextargets --format "\$(CODENAME) \$(COMPONENT) \$(REPO_URI)" \
    'Created-By: Packages' 'Origin: Debian' | awk -v want="$codename main" '$1 " " $2 == want && !found++ { print $3 }')
[ -n "$mirror" ] || fail "apt knows no source of Debian $codename main; hint: run \`apt-get update\`"

root=$directory/root
trap 'rm -rf "$root"' EXIT
mkdir -m 755 "$root"
say "making a Debian $codename root (one to three minutes)"
packages=$(IFS=, && printf '%s' "${PACKAGES[*]}")
# In namespaces of its own: what it mounts and what it starts goes with it, however it ends.
unshare --mount --pid --fork --kill-child --mount-proc debootstrap --variant=minbase --include="$packages" "$codename" "$root" "$mirror" \
    >"$directory/debootstrap.log" 2>&1 ||
    { tail -n 20 "$directory/debootstrap.log" >&2 && fail "debootstrap failed; its log is $directory/debootstrap.log"; }

# Two ordinary users: `keeps` has a service manager from the start, `plain` has not.
chroot "$root" useradd --create-home --uid 1000 keeps
chroot "$root" useradd --create-home --uid 1001 plain
mkdir -p "$root/var/lib/systemd/linger" "$root/payload"
touch "$root/var/lib/systemd/linger/keeps"
install -m 644 "$guest/tests.service" "$root/etc/systemd/system/"
chroot "$root" systemctl --quiet enable tests.service
install -m 755 "$node" "$root/usr/bin/node"

cp "$root"/boot/vmlinuz-* "$directory/vmlinuz"
cp "$root"/boot/initrd.img-* "$directory/initrd.img"
# What the machine writes is thrown away, so that a journal of the file system helps nobody.
mke2fs -q -t ext4 -O ^has_journal -d "$root" "$directory/root.part" 2G >/dev/null
mv "$directory/root.part" "$directory/root.img"
