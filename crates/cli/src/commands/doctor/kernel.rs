//! What the kernel offers.

use std::fs;

use ampoule_jail::{Hurdle, Machine};
use rustix::io::Errno;

use super::report::{Check, Status};

const SECTION: &str = "kernel";
const RELEASE: &str = "release";
const LANDLOCK: &str = "landlock";
const USER_NAMESPACES: &str = "user namespaces";
const PROC: &str = "/proc";
const SECCOMP: &str = "seccomp";
const OVERLAY: &str = "overlayfs";

/// Looks at the kernel's own tables, and makes a user namespace.
pub(super) fn checks() -> Vec<Check> {
    let machine = Machine::look();
    let made = machine.try_user_namespace();
    let mut checks = basics(&machine, made, ampoule_jail::landlock_abi());
    checks.push(seccomp(read("/proc/sys/kernel/seccomp/actions_avail").as_deref()));
    checks.push(overlay(machine.overlay));
    checks.extend(core_pattern(read("/proc/sys/kernel/core_pattern").as_deref()));
    checks
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// What sandboxes are made of: a line each, or one for each hurdle that stands in the way of it.
fn basics(
    machine: &Machine,
    made: Result<(), (Errno, Option<Hurdle>)>,
    landlock: Option<u32>,
) -> Vec<Check> {
    let mut hurdles = machine.hurdles();
    let mut refusal = None;
    match made {
        Ok(()) => {}
        Err((_, Some(hurdle))) if hurdles.contains(&hurdle) => {}
        Err((_, Some(hurdle))) => hurdles.push(hurdle),
        Err((errno, None)) => refusal = Some(errno),
    }
    if landlock.is_none() && !hurdles.contains(&Hurdle::NoLandlock) {
        hurdles.push(Hurdle::NoLandlock);
    }
    let release = format!("{} {}", machine.release, std::env::consts::ARCH);
    let version = landlock.map_or_else(String::new, |abi| format!("version {abi}"));
    let mut checks = Vec::new();
    for (line, fine) in [
        (RELEASE, release.as_str()),
        (LANDLOCK, version.as_str()),
        (USER_NAMESPACES, "one was made"),
        (PROC, "nothing in it is covered"),
    ] {
        let found = hurdles.iter().filter(|hurdle| line_of(hurdle) == line);
        let before = checks.len();
        checks.extend(found.map(|hurdle| stands_in_the_way(line, hurdle)));
        if let (USER_NAMESPACES, Some(errno)) = (line, refusal) {
            let detail = format!("the kernel makes none: {errno}");
            checks.push(Check::failed(SECTION, line, detail, "see the fences below"));
        }
        if checks.len() == before {
            checks.push(Check::ok(SECTION, line, fine));
        }
    }
    checks
}

/// The line that a hurdle belongs to.
fn line_of(hurdle: &Hurdle) -> &'static str {
    match hurdle {
        Hurdle::OldKernel(_) => RELEASE,
        Hurdle::NoLandlock => LANDLOCK,
        Hurdle::UserNamespacesOff(_)
        | Hurdle::AppArmor
        | Hurdle::AppArmorProfile(_)
        | Hurdle::SeccompProfile
        | Hurdle::ChangedRoot => USER_NAMESPACES,
        Hurdle::MaskedProc => PROC,
        Hurdle::NoOverlay => OVERLAY,
        Hurdle::SecondListener => SECCOMP,
    }
}

fn stands_in_the_way(line: &'static str, hurdle: &Hurdle) -> Check {
    let status = match hurdle {
        // A layer that may be given up, or a profile that may exempt us: the fences below tell.
        Hurdle::NoLandlock | Hurdle::MaskedProc | Hurdle::AppArmor => Status::Warning,
        _ => Status::Failed,
    };
    let detail = format!("{}: {hurdle}", hurdle.name());
    Check { status, ..Check::failed(SECTION, line, detail, hurdle.fix()) }
}

fn seccomp(actions: Option<&str>) -> Check {
    match actions {
        Some(actions) if actions.split_whitespace().any(|action| action == "user_notif") => {
            Check::ok(SECTION, SECCOMP, "filters and notifications")
        }
        Some(_) => Check::failed(
            SECTION,
            SECCOMP,
            "filters without notifications",
            "boot Linux 5.15 or newer",
        ),
        None => Check::failed(
            SECTION,
            SECCOMP,
            "the kernel has no filters, or /proc/sys is hidden",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn overlay(is_known: bool) -> Check {
    if is_known {
        return Check::ok(SECTION, OVERLAY, "there");
    }
    // The first mount may load it.
    Check::warning(SECTION, OVERLAY, "not loaded yet", Hurdle::NoOverlay.fix())
}

/// A handler of core dumps gets the memory of a program that crashes.
fn core_pattern(pattern: Option<&str>) -> Option<Check> {
    let handler = pattern?.strip_prefix('|')?;
    let detail = format!("crashes are handed to `{}`", handler.split(' ').next()?);
    let fix = "`sysctl -w kernel.core_pattern=core`";
    Some(Check::warning(SECTION, "core dumps", detail, fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with everything.
    fn machine() -> Machine {
        Machine {
            release: "6.1.0-13-amd64".to_owned(),
            max_user_namespaces: Some(100),
            ..Machine::default()
        }
    }

    #[test]
    fn a_machine_with_everything_has_four_good_lines() {
        let checks = basics(&machine(), Ok(()), Some(7));
        let names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names, [RELEASE, LANDLOCK, USER_NAMESPACES, PROC]);
        assert!(checks.iter().all(|check| check.status == Status::Ok), "{checks:?}");
    }

    #[test]
    fn every_hurdle_has_a_line_with_its_name_and_its_fix() {
        let off = Machine { max_user_namespaces: Some(0), ..machine() };
        let apparmor = Machine { apparmor_restricts: Some(1), ..machine() };
        let masked = Machine { masked: vec!["/proc/kcore".to_owned()], ..machine() };
        let old = Machine { release: "5.10.0".to_owned(), ..machine() };
        let bare = Machine { modules: Some("capability".to_owned()), ..machine() };
        let profile = Err((Errno::NOSYS, Some(Hurdle::SeccompProfile)));
        let sysctl = Hurdle::UserNamespacesOff("user.max_user_namespaces");
        let none = Err((Errno::NOSPC, Some(sysctl.clone())));
        for (machine, made, abi, line, status, hurdle) in [
            (&old, Ok(()), Some(7), RELEASE, Status::Failed, Hurdle::OldKernel("5.10.0".into())),
            (&bare, Ok(()), None, LANDLOCK, Status::Warning, Hurdle::NoLandlock),
            (&machine(), Ok(()), None, LANDLOCK, Status::Warning, Hurdle::NoLandlock),
            (&off, none, Some(7), USER_NAMESPACES, Status::Failed, sysctl),
            (&apparmor, Ok(()), Some(7), USER_NAMESPACES, Status::Warning, Hurdle::AppArmor),
            (&machine(), profile, Some(7), USER_NAMESPACES, Status::Failed, Hurdle::SeccompProfile),
            (&masked, Ok(()), Some(7), PROC, Status::Warning, Hurdle::MaskedProc),
        ] {
            let checks = basics(machine, made, abi);
            let bad: Vec<_> = checks.iter().filter(|check| check.status != Status::Ok).collect();
            assert_eq!(bad.len(), 1, "{checks:?}");
            let check = bad[0];
            assert_eq!((check.name.as_str(), check.status), (line, status));
            assert_eq!(check.detail, format!("{}: {hurdle}", hurdle.name()));
            assert_eq!(check.fix, Some(hurdle.fix()));
        }
    }

    #[test]
    fn a_refusal_that_nothing_explains_is_told_as_it_is() {
        let checks = basics(&machine(), Err((Errno::NOMEM, None)), Some(7));
        let check = checks.iter().find(|check| check.name == USER_NAMESPACES).unwrap();
        assert_eq!(check.status, Status::Failed);
        assert!(check.detail.contains("memory"), "{check:?}");
    }

    #[test]
    fn notifications_and_core_handlers_are_read_from_the_kernels_words() {
        assert_eq!(seccomp(Some("kill_process user_notif allow")).status, Status::Ok);
        assert_eq!(seccomp(Some("kill_process allow")).status, Status::Failed);
        assert_eq!(core_pattern(Some("core")), None);
        assert_eq!(core_pattern(Some("|/usr/lib/x %P")).unwrap().status, Status::Warning);
        assert_eq!(overlay(false).status, Status::Warning);
    }
}
