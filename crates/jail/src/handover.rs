//! What the keeper lays out and the launcher finds: descriptors, configuration, device nodes, names.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::{fd::BorrowedFd, unix::fs::symlink},
    path::Path,
};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::Layout,
    config::LauncherConfig,
    error::{Jail, JailError, Step},
    protocol::Report,
    wire,
};

/// The hidden argument that makes a process a launcher.
pub(crate) const LAUNCHER_ARGUMENT: &str = "__launcher";
/// The source that every file system of ours is mounted with: neutral inside, and told apart
/// outside.
pub(crate) const MOUNT_SOURCE: &str = "ampoule";
/// Where the launcher finds what it inherits.
pub(crate) const SOCKET_FD: i32 = 3;
pub(crate) const CONFIG_FD: i32 = 4;
/// The line to the keeper, for network helpers.
pub(crate) const LINE_FD: i32 = 5;
pub(crate) const FIRST_GROUP_FD: i32 = 6;
/// Where a keeper that may make device nodes keeps them; the launcher takes them over.
pub(crate) const DEVICES: &str = "/sys";
/// What the launcher reads at its start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) config: LauncherConfig,
    pub(crate) layout: Layout,
    /// The first of the host ids that are mapped, two per slot; `None` with one id for everything.
    pub(crate) first_id: Option<u32>,
    /// Whether the keeper has made device nodes for each slot.
    pub(crate) own_devices: bool,
    /// Why no network helper can be started, if none can.
    pub(crate) network_hurdle: Option<String>,
}

/// The devices of a sandbox and their numbers.
pub(crate) const DEVICE_NODES: [(&str, u32, u32); 5] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)];

/// Reads what [`memory_file`] holds.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(mut file: File) -> Jail<T> {
    let mut text = String::new();
    file.rewind()
        .and_then(|()| file.read_to_string(&mut text).map(drop))
        .and_then(|()| Ok(serde_json::from_str(&text)?))
        .step("read the configuration")
}

/// Puts a value into an anonymous file, so that its size is no matter for a socket.
pub(crate) fn memory_file(value: &impl Serialize) -> Jail<File> {
    let mut file = File::from(
        memfd_create("ampoule-config", MemfdFlags::CLOEXEC).step("make an anonymous file")?,
    );
    serde_json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|text| file.write_all(&text))
        .step("write the configuration")?;
    Ok(file)
}

/// Adds to a directory of device nodes what else belongs into a `/dev`.
pub(crate) fn finish_device_directory(directory: impl AsRef<Path>) -> Jail<()> {
    let directory = directory.as_ref();
    fs::create_dir(directory.join("shm")).step("make /dev/shm")?;
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        symlink(target, directory.join(name)).step("make a link in /dev")?;
    }
    Ok(())
}

/// Tells the manager that the launcher itself cannot go on.
pub(crate) fn report_failure(socket: BorrowedFd<'_>, error: &JailError) {
    let report = Report::Failed { ticket: u32::MAX, full: false, text: error.to_string() };
    // The manager sees the socket close in any case.
    let _ = wire::send(socket, &report.encode(), &[]);
}
