//! What the kernel offers.

use std::fs;

use super::report::Check;

const SECTION: &str = "kernel";
/// The oldest kernel with all that a cell is made of.
const OLDEST: (u32, u32) = (5, 15);

/// Looks at the kernel's own tables.
pub(super) fn checks() -> Vec<Check> {
    let is_root = rustix::process::geteuid().is_root();
    let mut checks = vec![
        release(&read("/proc/sys/kernel/osrelease").unwrap_or_default()),
        landlock(ampoule_jail::landlock_abi()),
        user_namespaces(is_root, &|name| read(&format!("/proc/sys/{name}"))),
        seccomp(read("/proc/sys/kernel/seccomp/actions_avail").as_deref()),
        overlay(read("/proc/filesystems").as_deref()),
    ];
    checks.extend(core_pattern(read("/proc/sys/kernel/core_pattern").as_deref()));
    checks
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn release(release: &str) -> Check {
    let detail = format!("{release} {}", std::env::consts::ARCH);
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => {
            Check::ok(SECTION, "release", detail)
        }
        _ => Check::failed(SECTION, "release", detail, "boot Linux 5.15 or newer"),
    }
}

fn landlock(abi: Option<u32>) -> Check {
    match abi {
        Some(abi) => Check::ok(SECTION, "landlock", format!("version {abi}")),
        None => Check::failed(
            SECTION,
            "landlock",
            "the kernel has none, or it is switched off",
            "boot with `lsm=landlock,…` in front of what is there",
        ),
    }
}

/// Whether user namespaces are allowed, as far as switches tell; the fences below are the proof.
fn user_namespaces(is_root: bool, sysctl: &dyn Fn(&str) -> Option<String>) -> Check {
    const NAME: &str = "user namespaces";
    let is = |name: &str, value: &str| sysctl(name).as_deref() == Some(value);
    if is("user/max_user_namespaces", "0") {
        let detail = "switched off by `user.max_user_namespaces`";
        return Check::failed(SECTION, NAME, detail, "`sysctl -w user.max_user_namespaces=15000`");
    }
    if !is_root && is("kernel/unprivileged_userns_clone", "0") {
        let detail = "only for root, by `kernel.unprivileged_userns_clone`";
        let fix = "`sysctl -w kernel.unprivileged_userns_clone=1`, or start as root";
        return Check::failed(SECTION, NAME, detail, fix);
    }
    if !is_root && is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        let detail = "AppArmor allows them to programs with a profile only";
        let fix = "a profile for ampoule with `userns,`, or `sysctl -w \
                   kernel.apparmor_restrict_unprivileged_userns=0`, or start as root";
        return Check::warning(SECTION, NAME, detail, fix);
    }
    let most = sysctl("user/max_user_namespaces").unwrap_or_else(|| "unknown".to_owned());
    Check::ok(SECTION, NAME, format!("allowed (at most {most})"))
}

fn seccomp(actions: Option<&str>) -> Check {
    match actions {
        Some(actions) if actions.split_whitespace().any(|action| action == "user_notif") => {
            Check::ok(SECTION, "seccomp", "filters and notifications")
        }
        Some(_) => Check::failed(
            SECTION,
            "seccomp",
            "filters without notifications",
            "boot Linux 5.15 or newer",
        ),
        None => Check::failed(
            SECTION,
            "seccomp",
            "the kernel has no filters, or /proc/sys is hidden",
            "a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn overlay(file_systems: Option<&str>) -> Check {
    let has =
        file_systems.is_some_and(|text| text.split_whitespace().any(|word| word == "overlay"));
    if has {
        return Check::ok(SECTION, "overlayfs", "there");
    }
    Check::warning(SECTION, "overlayfs", "not loaded yet", "`modprobe overlay`")
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
    use crate::commands::doctor::report::Status;

    #[test]
    fn old_kernels_are_told_by_their_release() {
        for (text, status) in [
            ("6.1.0-13-amd64", Status::Ok),
            ("5.15.0", Status::Ok),
            ("5.14.21", Status::Failed),
            ("4.19+", Status::Failed),
            ("", Status::Failed),
        ] {
            assert_eq!(release(text).status, status, "{text}");
        }
    }

    #[test]
    fn switches_of_user_namespaces_matter_to_whom_they_are_for() {
        let status = |is_root, name: &'static str, value: &'static str| {
            let sysctl = move |asked: &str| (asked == name).then(|| value.to_owned());
            user_namespaces(is_root, &sysctl).status
        };
        assert_eq!(status(true, "user/max_user_namespaces", "0"), Status::Failed);
        assert_eq!(status(false, "kernel/unprivileged_userns_clone", "0"), Status::Failed);
        assert_eq!(status(true, "kernel/unprivileged_userns_clone", "0"), Status::Ok);
        let apparmor = "kernel/apparmor_restrict_unprivileged_userns";
        assert_eq!(status(false, apparmor, "1"), Status::Warning);
        assert_eq!(status(false, apparmor, "0"), Status::Ok);
    }

    #[test]
    fn notifications_and_core_handlers_are_read_from_the_kernels_words() {
        assert_eq!(seccomp(Some("kill_process user_notif allow")).status, Status::Ok);
        assert_eq!(seccomp(Some("kill_process allow")).status, Status::Failed);
        assert_eq!(core_pattern(Some("core")), None);
        assert_eq!(core_pattern(Some("|/usr/lib/x %P")).unwrap().status, Status::Warning);
        assert_eq!(overlay(Some("nodev\ttmpfs\n")).status, Status::Warning);
    }
}
