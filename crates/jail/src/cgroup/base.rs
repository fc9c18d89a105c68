//! The keeper's side: one base group per manager in each hierarchy, on the best rung that there is.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, unlinkat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    LEAF, NEEDED, PREFIX,
    hierarchies::{Hierarchies, v2_controllers},
    scope,
};
use crate::error::{Jail, Step};

/// How often processes are moved out of the way before the group counts as somebody else's.
const MOST_ROUNDS: u32 = 5;

/// The base groups of one manager; the keeper's to remove.
#[derive(Debug)]
pub(crate) struct Base {
    version: u32,
    name: String,
    entries: Vec<BaseGroup>,
}

/// The base group in one hierarchy. Descriptors and no path: the keeper's own view of `/sys` is
/// covered by then.
#[derive(Debug)]
struct BaseGroup {
    parent: OwnedFd,
    group: OwnedFd,
    controllers: Vec<String>,
}

/// How the launcher finds the base groups among its descriptors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub(super) version: u32,
    pub(super) controllers: Vec<Vec<String>>,
}

impl Base {
    /// Makes the base groups on the best rung that there is: beneath our own group; on v2 also
    /// beneath a scope that systemd gives us, and for root at the top of the hierarchy. A machine
    /// without any gives an empty base.
    pub(crate) fn create(name: &str) -> Jail<Self> {
        let name = format!("{PREFIX}{name}");
        let find = || Hierarchies::find().step("read the control group tables");
        let hierarchies = find()?;
        let (version, top) = (hierarchies.version, hierarchies.v2_mount.clone());
        let base = Self::beneath(hierarchies, &name)?;
        if base.version > 0 || version != 2 {
            return Ok(base);
        }
        if scope::enter(&name) {
            let base = Self::beneath(find()?, &name)?;
            if base.version > 0 {
                return Ok(base);
            }
        }
        let at_top = top.and_then(|top| {
            let have = fs::read_to_string(top.join("cgroup.controllers")).ok()?;
            v2_controllers(&have).map(|controllers| (top, controllers))
        });
        let own = at_top.into_iter().collect();
        Self::beneath(Hierarchies { version, own, v2_mount: None }, &name)
    }

    fn beneath(hierarchies: Hierarchies, name: &str) -> Jail<Self> {
        let name = name.to_owned();
        let version = hierarchies.version;
        let mut entries: Vec<BaseGroup> = Vec::new();
        for (own, controllers) in hierarchies.own {
            match make(version, &own, &name, controllers) {
                Ok(entry) => entries.push(entry),
                // Not ours to write: this machine gives us no meter of that kind.
                Err(error) if is_refusal(&error) => {}
                Err(error) => {
                    Self { version: 0, name, entries }.remove();
                    return Err(error)
                        .step_with(|| format!("make a control group in {}", own.display()));
                }
            }
        }
        let has = |wanted: &&str| {
            entries.iter().any(|entry| entry.controllers.iter().any(|name| name == wanted))
        };
        if NEEDED.iter().all(has) {
            return Ok(Self { version, name, entries });
        }
        Self { version: 0, name: name.clone(), entries }.remove();
        Ok(Self { version: 0, name, entries: Vec::new() })
    }

    /// The descriptors that the launcher inherits, and what they are.
    pub(crate) fn layout(&self) -> (Layout, Vec<BorrowedFd<'_>>) {
        let controllers = self.entries.iter().map(|entry| entry.controllers.clone()).collect();
        let fds = self.entries.iter().map(|entry| entry.group.as_fd()).collect();
        (Layout { version: self.version, controllers }, fds)
    }

    /// Removes every group under the bases, waiting a little for those that still empty.
    pub(crate) fn clear(&self) {
        for entry in &self.entries {
            remove_children(&entry.group);
        }
    }

    /// Removes everything.
    pub(crate) fn remove(self) {
        self.clear();
        for entry in &self.entries {
            remove_group(&entry.parent, &self.name);
        }
    }
}

/// Makes the base group in one hierarchy.
fn make(version: u32, own: &Path, name: &str, controllers: Vec<String>) -> io::Result<BaseGroup> {
    if version == 2 {
        hand_down_with_room(own, &controllers)?;
    }
    let path = own.join(name);
    fs::create_dir(&path)?;
    let prepared = || {
        if version == 2 {
            hand_down(&path, &controllers)?;
        }
        Ok(BaseGroup {
            parent: fs::File::open(own)?.into(),
            group: fs::File::open(&path)?.into(),
            controllers,
        })
    };
    prepared().inspect_err(|_: &io::Error| {
        // Empty, so that nothing keeps it.
        let _ = fs::remove_dir(&path);
    })
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::ResourceBusy
    )
}

/// Gives the children of a group of v2 these controllers.
fn hand_down(group: &Path, controllers: &[String]) -> io::Result<()> {
    let wanted: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
    fs::write(group.join("cgroup.subtree_control"), wanted.join(" "))
}

/// Hands the controllers of our own group down. It may not hold processes beside children then, so
/// those move to a leaf first: the manager and us; and others only where the whole group was handed
/// over to be arranged, because elsewhere they and it are somebody else's.
fn hand_down_with_room(own: &Path, controllers: &[String]) -> io::Result<()> {
    let ours = [std::process::id(), std::os::unix::process::parent_id()];
    let mut outcome = hand_down(own, controllers);
    // Once, and again for those who are born while others move.
    for _ in 0..MOST_ROUNDS {
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            _ => break,
        }
        let there: Vec<u32> = fs::read_to_string(own.join("cgroup.procs"))?
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        if there.iter().any(|pid| !ours.contains(pid)) && !is_delegated(own) {
            break;
        }
        let leaf = own.join(LEAF);
        fs::create_dir(&leaf).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
        let leaf = leaf.join("cgroup.procs");
        for pid in there {
            // One that has ended needs no room.
            let _ = fs::write(&leaf, pid.to_string());
        }
        outcome = hand_down(own, controllers);
    }
    outcome
}

/// Whether systemd has handed this group over, as `Delegate=yes` asks it to: it says so in an
/// attribute of the group's directory.
fn is_delegated(group: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(group, *name, &mut value[..])
            .is_ok_and(|length| value[..length].starts_with(b"1"))
    })
}

/// Removes a group and those beneath it, by path.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) =
        (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(());
    };
    let parent = fs::File::open(parent)?.into();
    remove_children(&fs::File::open(path)?.into());
    remove_group(&parent, name);
    Ok(())
}

fn remove_children(group: &OwnedFd) {
    let Ok(entries) = Dir::read_from(group) else { return };
    for entry in entries.flatten() {
        if let (FileType::Directory, Ok(name)) = (entry.file_type(), entry.file_name().to_str())
            && name != "."
            && name != ".."
        {
            remove_group(group, name);
        }
    }
}

/// Removes one group; processes that were killed may take a moment to leave it.
fn remove_group(parent: &OwnedFd, name: &str) {
    for _ in 0..200 {
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(10)),
            _ => return,
        }
    }
}
