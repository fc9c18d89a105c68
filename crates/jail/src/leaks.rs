//! What a manager may have left on the host, seen from outside.

use std::{
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use crate::{
    cgroup::{Hierarchies, PREFIX, remove_tree},
    handover::MOUNT_SOURCE,
    identity,
    network::{HELPER_RANGE, tool::PROGRAM as NETWORK_HELPER},
};

/// Something that nobody owns any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leak {
    /// A process of a sandbox or of a launcher whose manager is gone.
    Process {
        /// Its pid.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// A control group whose keeper is gone.
    ControlGroup {
        /// Where.
        path: PathBuf,
    },
    /// A mount of ours in this mount namespace, where none belongs.
    Mount {
        /// Where.
        point: String,
    },
}

impl std::fmt::Display for Leak {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { pid, name } => write!(formatter, "process {pid} ({name})"),
            Self::ControlGroup { path } => write!(formatter, "control group {}", path.display()),
            Self::Mount { point } => write!(formatter, "mount {point}"),
        }
    }
}

/// Looks for everything that was left. What belongs to a live keeper is no leak.
pub fn leaks() -> std::io::Result<Vec<Leak>> {
    let mut found: Vec<Leak> =
        stale_groups()?.into_iter().map(|path| Leak::ControlGroup { path }).collect();
    found.extend(stray_processes()?);
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        if let Some((left, right)) = line.split_once(" - ")
            && right.split(' ').nth(1) == Some(MOUNT_SOURCE)
        {
            let point = left.split(' ').nth(4).unwrap_or_default().to_owned();
            found.push(Leak::Mount { point });
        }
    }
    Ok(found)
}

/// Control groups on this machine whose keeper is gone.
fn stale_groups() -> std::io::Result<Vec<PathBuf>> {
    let hierarchies = Hierarchies::find()?;
    let mut directories = hierarchies.v2_directories();
    directories.extend(hierarchies.directories().map(Path::to_owned));
    directories.sort();
    directories.dedup();
    Ok(stale_in(directories.iter().map(PathBuf::as_path)))
}

fn stale_in<'a>(directories: impl Iterator<Item = &'a Path>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in directories {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if owner.is_some_and(identity::has_ended) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Removes control groups that a killed keeper has left beside where ours will be.
pub(crate) fn sweep_groups() {
    let Ok(hierarchies) = Hierarchies::find() else { return };
    for path in stale_in(hierarchies.directories()) {
        // What cannot be removed now is for the next to try, and for `leaks` to show.
        let _ = remove_tree(&path);
    }
}

/// Processes inside a launcher's pid namespace, launchers, or network helpers, that no keeper is an
/// ancestor of.
fn stray_processes() -> std::io::Result<Vec<Leak>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if (is_ours(&entry.path()) || is_helper(&entry.path())) && !has_keeper(pid) {
            let name = comm(pid).unwrap_or_default();
            found.push(Leak::Process { pid, name });
        }
    }
    Ok(found)
}

/// Whether a process lives on mounts of a launcher's: its root is one of our file systems.
fn is_ours(process: &Path) -> bool {
    let Ok(mounts) = fs::read(process.join("mountinfo")) else { return false };
    let root_is_ours = mounts.split(|byte| *byte == b'\n').any(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        fields.nth(4) == Some(b"/".as_slice())
            && line.windows(MOUNT_SOURCE.len() + 1).any(|part| {
                part.strip_prefix(b" ").is_some_and(|rest| rest == MOUNT_SOURCE.as_bytes())
            })
    });
    root_is_ours
        && !fs::read_link(process.join("ns/pid")).is_ok_and(|ns| {
            fs::read_link("/proc/self/ns/pid")
                .is_ok_and(|own| own.as_os_str().as_bytes() == ns.as_os_str().as_bytes())
        })
}

/// Whether a process is a network helper as we start them: it sees the host's files.
fn is_helper(process: &Path) -> bool {
    let Ok(arguments) = fs::read(process.join("cmdline")) else { return false };
    let has =
        |wanted: &str| arguments.split(|byte| *byte == 0).any(|have| have == wanted.as_bytes());
    has(NETWORK_HELPER) && has(&format!("--cidr={HELPER_RANGE}"))
}

fn comm(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned())
}

fn parent(pid: u32) -> Option<u32> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

fn has_keeper(pid: u32) -> bool {
    let mut at = pid;
    while let Some(above) = parent(at).filter(|above| *above > 1) {
        if comm(above).as_deref() == Some("ampoule-keeper") {
            return true;
        }
        at = above;
    }
    false
}
