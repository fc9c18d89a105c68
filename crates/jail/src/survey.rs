//! What this machine offers to build sandboxes from, for people: nothing here decides anything.

use std::{io, path::PathBuf};

use rustix::fs::{Access, access};

use crate::{cgroup::Hierarchies, fences};

/// The control groups that this process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlGroups {
    /// 1, 2, or 0 for none with the controllers that meters need.
    pub version: u32,
    /// Our own group in each hierarchy.
    pub groups: Vec<OwnGroup>,
}

/// Our own group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnGroup {
    /// Where.
    pub path: PathBuf,
    /// The controllers that count for us.
    pub controllers: Vec<String>,
    /// Whether we may make groups beneath it.
    pub is_writable: bool,
}

/// Finds the control groups that this process is in.
pub fn control_groups() -> io::Result<ControlGroups> {
    let hierarchies = Hierarchies::find()?;
    let groups = hierarchies.own().map(|(path, controllers)| OwnGroup {
        path: path.to_owned(),
        controllers: controllers.to_vec(),
        is_writable: access(path, Access::WRITE_OK).is_ok(),
    });
    Ok(ControlGroups { version: hierarchies.version(), groups: groups.collect() })
}

/// The newest Landlock that the kernel offers, if it has any.
pub fn landlock_abi() -> Option<u32> {
    fences::landlock_abi().ok()
}
