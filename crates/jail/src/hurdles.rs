//! Hurdles: why a machine does not let us build a sandbox, by name, with the fix.
//!
//! The kernel says `EPERM` for a dozen reasons. When a step fails, the facts that decide which one
//! it was are read from `/proc` and compared; nothing is guessed that they do not show.

use std::{
    fmt, fs,
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
};

use rustix::{
    io::Errno,
    process::{WaitId, WaitIdOptions, waitid},
};

use crate::{error::JailError, sys};

/// The oldest kernel that has everything: `mount_setattr`, overlays and `CLONE_INTO_CGROUP` in user
/// namespaces, Landlock, `close_range`.
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// How the steps begin that need a call which containers' seccomp profiles refuse: clone3, setns,
/// unshare, mount and its kin, pivot_root, umount2, sethostname. Any other step fails for another
/// reason.
const PROFILED: [&str; 15] = [
    "clone3",
    "setns",
    "unshare",
    "leave the mount namespace",
    "leave the control group namespace",
    "make mounts private",
    "mount",
    // What is opened by its path is a tree of mounts.
    "open /",
    "show ",
    "take the device nodes",
    "move the device nodes",
    "pivot into the new root",
    "let go of the old root",
    "set the host name",
    "set the launcher's host name",
];

/// Something about this machine that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hurdle {
    /// The kernel is too old.
    OldKernel(String),
    /// A sysctl forbids user namespaces; this one.
    UserNamespacesOff(&'static str),
    /// AppArmor takes every right from a process in a user namespace.
    AppArmor,
    /// The AppArmor profile that we run under (a container's) refuses mounts; its name.
    AppArmorProfile(String),
    /// The seccomp profile that we run under (a container's) refuses what sandboxes are made of.
    SeccompProfile,
    /// The container hides parts of `/proc`, so that the kernel lets nobody mount another.
    MaskedProc,
    /// Landlock is not compiled in, or not switched on at boot.
    NoLandlock,
    /// The module is not loaded, and we may not load it.
    NoOverlay,
    /// A seccomp filter with a listener is there already; there can be one only.
    SecondListener,
    /// We run in a changed root, where no user namespace can be made.
    ChangedRoot,
}

impl Hurdle {
    /// The hurdle as a stable word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OldKernel(_) => "old_kernel",
            Self::UserNamespacesOff(_) => "user_namespaces_off",
            Self::AppArmor => "apparmor",
            Self::AppArmorProfile(_) => "apparmor_profile",
            Self::SeccompProfile => "seccomp_profile",
            Self::MaskedProc => "masked_proc",
            Self::NoLandlock => "no_landlock",
            Self::NoOverlay => "no_overlay",
            Self::SecondListener => "second_listener",
            Self::ChangedRoot => "changed_root",
        }
    }

    /// What removes it.
    pub fn fix(&self) -> String {
        match self {
            Self::OldKernel(_) => {
                let (major, minor) = OLDEST_KERNEL;
                format!("boot Linux {major}.{minor} or newer")
            }
            Self::UserNamespacesOff("user.max_user_namespaces") => {
                "as root: `sysctl -w user.max_user_namespaces=15000`".to_owned()
            }
            Self::UserNamespacesOff(sysctl) => format!("as root: `sysctl -w {sysctl}=1`"),
            Self::AppArmor => "as root: an AppArmor profile for ampoule with `userns,`, or \
                               `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
                .to_owned(),
            Self::AppArmorProfile(_) => "start the container with `--security-opt \
                                         apparmor=unconfined`, or under a profile with `mount,` \
                                         and `userns,`"
                .to_owned(),
            Self::SeccompProfile => "start the container with a seccomp profile that allows user \
                                     namespaces and mounts (docs/containers.md has it)"
                .to_owned(),
            Self::MaskedProc => "start the container with `--security-opt \
                                 systempaths=unconfined` together with `--user 1000:1000`, or give \
                                 it up with `native.allow_missing = [\"proc\"]`"
                .to_owned(),
            Self::NoLandlock => "boot with `lsm=landlock,…` (kernel 5.13 or newer), or give it up \
                                 with `native.allow_missing = [\"landlock\"]`"
                .to_owned(),
            Self::NoOverlay => "as root: `modprobe overlay`".to_owned(),
            Self::SecondListener => {
                "start ampoule outside of the sandbox or container manager that listens to its \
                 system calls"
                    .to_owned()
            }
            Self::ChangedRoot => {
                "start ampoule outside of the changed root, or enter it with pivot_root".to_owned()
            }
        }
    }
}

impl fmt::Display for Hurdle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldKernel(release) => write!(formatter, "the kernel {release} is too old"),
            Self::UserNamespacesOff(sysctl) => {
                write!(formatter, "user namespaces are switched off by the sysctl {sysctl}")
            }
            Self::AppArmor => formatter.write_str(
                "AppArmor restricts user namespaces \
                 (kernel.apparmor_restrict_unprivileged_userns is 1)",
            ),
            Self::AppArmorProfile(name) => {
                write!(
                    formatter,
                    "the AppArmor profile `{name}` refuses what sandboxes are made of"
                )
            }
            Self::SeccompProfile => formatter.write_str(
                "a seccomp profile (the container's) refuses what user namespaces and mounts need",
            ),
            Self::MaskedProc => formatter.write_str("parts of /proc are masked (by the container)"),
            Self::NoLandlock => formatter.write_str("Landlock is not available"),
            Self::NoOverlay => formatter.write_str("overlayfs is not available"),
            Self::SecondListener => {
                formatter.write_str("somebody listens to our system calls by seccomp already")
            }
            Self::ChangedRoot => formatter.write_str("the root directory is a changed one"),
        }
    }
}

/// The facts that tell hurdles apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The kernel's release.
    pub release: String,
    /// `user.max_user_namespaces`, where it is there.
    pub max_user_namespaces: Option<u64>,
    /// `kernel.unprivileged_userns_clone`, which Debian's kernels have.
    pub unprivileged_userns_clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, which Ubuntu's kernels have.
    pub apparmor_restricts: Option<u64>,
    /// Whether a seccomp filter is on us.
    pub filtered: bool,
    /// Mounts that cover parts of `/proc`.
    pub masked: Vec<String>,
    /// The security modules that are switched on, where that can be read.
    pub modules: Option<String>,
    /// Whether the kernel knows overlayfs now.
    pub overlay: bool,
    /// The AppArmor profile that is enforced on us.
    pub profile: Option<String>,
    /// Whether we have CAP_SYS_ADMIN in the first user namespace, which exempts from the switches.
    pub privileged: bool,
}

impl Machine {
    /// Reads the facts.
    pub fn look() -> Self {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = text("/proc/self/status");
        Self {
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            unprivileged_userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            filtered: is_filtered(&status),
            masked: masked_by(&text("/proc/self/mountinfo")),
            modules: fs::read_to_string("/sys/kernel/security/lsm").ok(),
            overlay: text("/proc/filesystems").lines().any(|line| line.ends_with("\toverlay")),
            profile: enforced(&text("/proc/self/attr/current")),
            privileged: is_privileged(&status, &text("/proc/self/uid_map")),
        }
    }

    /// Every hurdle that the facts alone show, before anything is tried.
    pub fn hurdles(&self) -> Vec<Hurdle> {
        let mut found = Vec::new();
        if self.is_old() {
            found.push(Hurdle::OldKernel(self.release.clone()));
        }
        found.extend(self.sysctl().map(Hurdle::UserNamespacesOff));
        if self.apparmor_restricts == Some(1) && !self.privileged {
            found.push(Hurdle::AppArmor);
        }
        if !self.masked.is_empty() {
            found.push(Hurdle::MaskedProc);
        }
        if self.modules.as_ref().is_some_and(|modules| !modules.contains("landlock")) {
            found.push(Hurdle::NoLandlock);
        }
        found
    }

    /// Makes a user namespace, as every sandbox has one. Else says what the kernel answered, and
    /// the hurdle that the facts show.
    pub fn try_user_namespace(&self) -> Result<(), (Errno, Option<Hurdle>)> {
        const NEW_USER_NAMESPACE: u64 = 0x1000_0000;
        // SAFETY: the child ends at once by a bare system call. It uses no memory, so that it does
        // not matter which locks other threads held when it was copied.
        match unsafe { sys::clone3(NEW_USER_NAMESPACE, None) } {
            Ok(None) => sys::exit(0),
            Ok(Some(child)) => {
                // SAFETY: clone3 has just made this descriptor for us alone.
                let pidfd = unsafe { OwnedFd::from_raw_fd(child.pidfd) };
                // Where children are reaped by others it is gone already, which is as good.
                let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
                Ok(())
            }
            Err(fault) => {
                let errno = Errno::from_raw_os_error(fault.errno);
                Err((errno, self.explain(fault.call, errno)))
            }
        }
    }

    /// The hurdle that made a step fail with `errno`, if the facts show it.
    fn explain(&self, step: &str, errno: Errno) -> Option<Hurdle> {
        let refused = matches!(errno, Errno::PERM | Errno::ACCESS);
        let unknown = matches!(errno, Errno::NOSYS | Errno::OPNOTSUPP);
        if self.is_old() && (unknown || errno == Errno::INVAL) {
            return Some(Hurdle::OldKernel(self.release.clone()));
        }
        if step.contains("Landlock") {
            return Some(Hurdle::NoLandlock);
        }
        match step {
            "clone3" | "unshare" if errno == Errno::NOSPC || errno == Errno::USERS => {
                self.sysctl().map(Hurdle::UserNamespacesOff)
            }
            "clone3" if refused && self.sysctl().is_some() => {
                self.sysctl().map(Hurdle::UserNamespacesOff)
            }
            "seccomp" if errno == Errno::BUSY => Some(Hurdle::SecondListener),
            _ if errno == Errno::NODEV && step.contains("overlay") && !self.overlay => {
                Some(Hurdle::NoOverlay)
            }
            _ if refused && step.contains("/proc") && !self.masked.is_empty() => {
                Some(Hurdle::MaskedProc)
            }
            _ if refused && self.apparmor_restricts == Some(1) && !self.privileged => {
                Some(Hurdle::AppArmor)
            }
            // Unlike a filter, a security module says EACCES.
            _ if errno == Errno::ACCESS && is_profiled(step) => {
                self.profile.clone().map(Hurdle::AppArmorProfile)
            }
            _ if matches!(errno, Errno::PERM | Errno::NOSYS)
                && self.filtered
                && is_profiled(step) =>
            {
                Some(Hurdle::SeccompProfile)
            }
            "clone3" if refused => Some(Hurdle::ChangedRoot),
            _ => None,
        }
    }

    fn is_old(&self) -> bool {
        let mut numbers = self.release.split(['.', '-']).map_while(|part| part.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) => (major, minor) < OLDEST_KERNEL,
            _ => false,
        }
    }

    /// The sysctl that forbids us user namespaces.
    fn sysctl(&self) -> Option<&'static str> {
        if self.max_user_namespaces == Some(0) {
            return Some("user.max_user_namespaces");
        }
        (self.unprivileged_userns_clone == Some(0) && !self.privileged)
            .then_some("kernel.unprivileged_userns_clone")
    }
}

/// Adds the hurdle, where one is recognised, to the error of a step.
pub(crate) fn recognise(machine: &Machine, error: JailError) -> JailError {
    match error.errno().and_then(|errno| machine.explain(error.step(), errno)) {
        Some(hurdle) => error.because(&hurdle, &hurdle.fix()),
        None => error,
    }
}

/// Whether a step needs a call that profiles of containers refuse.
fn is_profiled(step: &str) -> bool {
    PROFILED.iter().any(|start| step.starts_with(start))
}

fn is_privileged(status: &str, uids: &str) -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok()).unwrap_or(0);
    // Only the first user namespace knows every id.
    held & SYS_ADMIN != 0 && uids.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The name in `docker-default (enforce)`.
fn enforced(label: &str) -> Option<String> {
    label.trim_end().strip_suffix(" (enforce)").map(str::to_owned)
}

fn is_filtered(status: &str) -> bool {
    const FILTER: &str = "2";
    status
        .lines()
        .any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == FILTER))
}

/// The mounts beneath `/proc` that hide something: all but the one for foreign binaries, which
/// systemd mounts on demand.
fn masked_by(mounts: &str) -> Vec<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| point.starts_with("/proc/") && *point != "/proc/sys/fs/binfmt_misc")
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            release: "6.1.0-18-amd64".to_owned(),
            max_user_namespaces: Some(100),
            overlay: true,
            ..Machine::default()
        }
    }

    #[test]
    fn each_hurdle_is_told_by_the_fact_that_shows_it() {
        let off = Machine { max_user_namespaces: Some(0), ..machine() };
        let debian = Machine { unprivileged_userns_clone: Some(0), ..machine() };
        let ubuntu = Machine { apparmor_restricts: Some(1), ..machine() };
        let container = Machine { filtered: true, ..machine() };
        let profile = Some("docker-default".to_owned());
        let apparmor = Machine { profile, ..container.clone() };
        let masked = Machine { masked: vec!["/proc/kcore".to_owned()], ..machine() };
        let old = Machine { release: "5.10.0-9-amd64".to_owned(), ..machine() };
        let bare = Machine { overlay: false, ..machine() };
        for (machine, step, errno, name) in [
            (&off, "clone3", Errno::NOSPC, "user_namespaces_off"),
            (&debian, "clone3", Errno::PERM, "user_namespaces_off"),
            (&ubuntu, "make mounts private", Errno::ACCESS, "apparmor"),
            (&apparmor, "make mounts private", Errno::ACCESS, "apparmor_profile"),
            (&apparmor, "make mounts private", Errno::PERM, "seccomp_profile"),
            (&container, "clone3", Errno::NOSYS, "seccomp_profile"),
            (&container, "setns", Errno::PERM, "seccomp_profile"),
            (&container, "make mounts private", Errno::PERM, "seccomp_profile"),
            (&container, "mount the launcher's root", Errno::PERM, "seccomp_profile"),
            (&container, "mount_setattr", Errno::PERM, "seccomp_profile"),
            (&container, "open /usr", Errno::PERM, "seccomp_profile"),
            (&container, "show /usr", Errno::PERM, "seccomp_profile"),
            (&container, "pivot into the new root", Errno::PERM, "seccomp_profile"),
            (&container, "let go of the old root", Errno::PERM, "seccomp_profile"),
            (&container, "set the host name", Errno::PERM, "seccomp_profile"),
            (&masked, "mount the launcher's /proc", Errno::PERM, "masked_proc"),
            (&old, "mount_setattr", Errno::NOSYS, "old_kernel"),
            (&bare, "mount the overlay of /n", Errno::NODEV, "no_overlay"),
            (&machine(), "find Landlock", Errno::OPNOTSUPP, "no_landlock"),
            (&machine(), "seccomp", Errno::BUSY, "second_listener"),
            (&machine(), "clone3", Errno::PERM, "changed_root"),
        ] {
            let hurdle = machine.explain(step, errno);
            assert_eq!(hurdle.as_ref().map(Hurdle::name), Some(name), "{step}: {errno}");
        }
    }

    #[test]
    fn what_no_fact_shows_is_not_guessed() {
        assert_eq!(machine().explain("mount a tmpfs", Errno::PERM), None);
        assert_eq!(machine().explain("clone3", Errno::NOMEM), None);
        assert_eq!(machine().hurdles(), []);
        // Every container has a filter, and not every failure in one is the filter's.
        let container = Machine { filtered: true, ..machine() };
        for (step, errno) in [
            ("write uid_map", Errno::PERM),
            ("join the control group", Errno::ACCESS),
            ("open our pid namespace", Errno::PERM),
            ("make a directory of the launcher's root", Errno::PERM),
            ("set the quota max_user_namespaces", Errno::PERM),
            ("mount the launcher's root", Errno::ACCESS),
            ("mount the launcher's root", Errno::NOMEM),
        ] {
            assert_eq!(container.explain(step, errno), None, "{step}: {errno}");
        }
    }

    #[test]
    fn an_error_names_the_hurdle_and_the_fix() {
        let error = JailError::new("clone3", Errno::NOSPC);
        let off = Machine { max_user_namespaces: Some(0), ..machine() };
        assert_eq!(
            recognise(&off, error).to_string(),
            "user namespaces are switched off by the sysctl user.max_user_namespaces (clone3: No \
             space left on device (os error 28)); hint: as root: `sysctl -w \
             user.max_user_namespaces=15000`"
        );
    }

    #[test]
    fn the_tables_of_the_kernel_are_read() {
        assert!(is_filtered("NoNewPrivs:\t0\nSeccomp:\t2\n"));
        assert!(!is_filtered("Seccomp:\t0\nSeccomp_filters:\t2\n"));
        let (host, inner) = ("         0          0 4294967295\n", "0 1000 1\n");
        assert!(is_privileged("CapEff:\t000001ffffffffff\n", host));
        assert!(!is_privileged("CapEff:\t000001ffffffffff\n", inner));
        assert!(!is_privileged("CapEff:\t00000000a80425fb\n", host));
        assert_eq!(enforced("docker-default (enforce)\n").as_deref(), Some("docker-default"));
        assert_eq!(enforced("unconfined\n"), None);
        let mounts = "30 1 0:5 / /proc rw - proc proc rw\n\
                      31 30 0:6 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n\
                      32 30 0:5 /sys /proc/sys ro - proc proc rw\n";
        assert_eq!(masked_by(mounts), ["/proc/sys"]);
        assert!(Machine { release: "4.19.0".to_owned(), ..machine() }.is_old());
        assert!(!machine().is_old());
        assert!(!Machine::look().release.is_empty());
    }
}
