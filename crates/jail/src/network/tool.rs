//! Whether the policy `open` can be held here: the helper's program, and the tun device.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, mount},
};

use crate::{
    error::{Jail, Step},
    handover::MOUNT_SOURCE,
};

/// The helper's program.
pub const PROGRAM: &str = "slirp4netns";
/// The oldest version that knows all that we ask of it, and is looked after.
const OLDEST: (u32, u32) = (1, 0);
const TUN: &str = "/dev/net/tun";

/// Looks whether a helper can be started; else says why not, with the fix.
pub(crate) fn find(program: Option<&Path>) -> Result<PathBuf, String> {
    let program = program.ok_or_else(|| {
        format!(
            "no network helper is installed; hint: install `{PROGRAM}` (Debian: `apt-get install \
             {PROGRAM}`) and start again"
        )
    })?;
    check_version(program)?;
    check_tun()?;
    Ok(program.to_owned())
}

fn check_version(program: &Path) -> Result<(), String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let oldest = format!("version {}.{} or newer is needed", OLDEST.0, OLDEST.1);
    match said.as_deref().map(version) {
        Ok(Some(found)) if found >= OLDEST => Ok(()),
        Ok(Some((major, minor))) => {
            Err(format!("`{}` is version {major}.{minor}; hint: {oldest}", program.display()))
        }
        Ok(None) => {
            Err(format!("`{} --version` tells no version; hint: {oldest}", program.display()))
        }
        Err(error) => {
            Err(format!("`{}` does not start: {error}; hint: {oldest}", program.display()))
        }
    }
}

/// The version in `slirp4netns version 1.2.0`.
fn version(said: &str) -> Option<(u32, u32)> {
    let numbers = said.strip_prefix("slirp4netns version ")?.lines().next()?;
    let mut parts = numbers.split(|char: char| !char.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn check_tun() -> Result<(), String> {
    match File::options().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(format!(
            "`{TUN}` cannot be opened by this user; hint: `chmod 0666 {TUN}`, as most \
             distributions have it"
        )),
        Err(error) => Err(format!(
            "`{TUN}` cannot be opened ({error}); hint: `modprobe tun`; for a container `--device \
             {TUN}`"
        )),
    }
}

/// Shows a tun device that helpers may open, whose id is nobody's: some machines keep theirs for
/// root. For the keeper as root, in a mount namespace of its own.
pub(crate) fn show_tun() -> Jail<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(MOUNT_SOURCE, "/dev/net", "tmpfs", flags, Some(c"mode=0755,size=64k"))
        .step("mount a file system for the tun device")?;
    let anyone = Mode::from_raw_mode(0o666);
    let umask = rustix::process::umask(Mode::empty());
    let made = mknodat(CWD, TUN, FileType::CharacterDevice, anyone, makedev(10, 200));
    rustix::process::umask(umask);
    made.step("make the tun device")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_old_or_strange_ones_refused() {
        assert_eq!(version("slirp4netns version 1.2.0\ncommit: x\n"), Some((1, 2)));
        assert_eq!(version("slirp4netns version 0.4.3+dev"), Some((0, 4)));
        assert_eq!(version("Usage: slirp4netns"), None);
        let missing = find(None).unwrap_err();
        assert!(missing.contains("`apt-get install slirp4netns`"), "{missing}");
        let broken = find(Some(Path::new("/usr/bin/true"))).unwrap_err();
        assert!(broken.contains("tells no version; hint: version 1.0 or newer"), "{broken}");
        let absent = find(Some(Path::new("/nowhere/slirp4netns"))).unwrap_err();
        assert!(absent.contains("does not start"), "{absent}");
    }
}
