//! Meters: memory, processes and CPU of a whole process tree, by control groups v1 or v2.
//!
//! The keeper makes one base group per manager and opens it; the launcher holds those directory
//! descriptors only and makes one group per run beneath them. No path crosses a boundary.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, unlinkat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Jail, Step},
    protocol::{CellLimits, Counters},
    scope,
};

/// What every base group's name starts with.
pub(crate) const PREFIX: &str = "ampoule-";
/// On v2, where processes go that stood in the way of children.
const LEAF: &str = "ampoule.manager";
/// The controllers of v1 that are used, where they are mounted.
const V1_CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];
/// Those of v2. A user's own service manager may be given no more than the first two.
const V2_CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Without these there is no rung: half a meter would be mistaken for one.
const NEEDED: [&str; 2] = ["memory", "pids"];
/// How often processes are moved out of the way before the group counts as somebody else's.
const MOST_ROUNDS: u32 = 5;
const PERIOD_US: u64 = 100_000;

/// Where this process's groups are, by hierarchy.
#[derive(Debug)]
pub(crate) struct Hierarchies {
    /// 1, 2, or 0 for none that could be used.
    version: u32,
    /// The directory of our own group in each hierarchy, with the controllers that it has.
    own: Vec<(PathBuf, Vec<String>)>,
    /// Where v2 is mounted, usable or not.
    v2_mount: Option<PathBuf>,
}

impl Hierarchies {
    /// Finds them from the kernel's tables.
    pub(crate) fn find() -> io::Result<Self> {
        Self::parse(
            &fs::read_to_string("/proc/self/cgroup")?,
            &fs::read_to_string("/proc/self/mountinfo")?,
        )
    }

    fn parse(cgroups: &str, mounts: &str) -> io::Result<Self> {
        let mut groups = BTreeMap::new();
        for line in cgroups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
                for controller in controllers.split(',') {
                    groups.insert(controller.to_owned(), path.to_owned());
                }
            }
        }
        let mut v1: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        let (mut v2, mut v2_mount) = (None, None);
        let mut found = BTreeSet::new();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let ([_, _, _, root, point, ..], [kind, _, options, ..]) = (&left[..], &right[..])
            else {
                continue;
            };
            let own = |group: &str| Path::new(point).join(beneath(root, group));
            match *kind {
                "cgroup2" => {
                    v2 = groups.get("").map(|group| out_of_leaf(own(group)));
                    v2_mount = Some(PathBuf::from(point));
                }
                "cgroup" => {
                    for controller in
                        options.split(',').filter(|name| V1_CONTROLLERS.contains(name))
                    {
                        // One hierarchy may be mounted in two places.
                        if found.insert(controller.to_owned())
                            && let Some(group) = groups.get(controller)
                        {
                            v1.entry(own(group)).or_default().push(controller.to_owned());
                        }
                    }
                }
                _ => {}
            }
        }
        let v2 = v2.and_then(|own| {
            let have = fs::read_to_string(own.join("cgroup.controllers")).ok()?;
            v2_controllers(&have).map(|controllers| (own, controllers))
        });
        let (version, own) = match v2 {
            Some(own) => (2, vec![own]),
            None if v1.values().flatten().any(|name| name == "memory") => {
                (1, v1.into_iter().collect())
            }
            None => (0, Vec::new()),
        };
        Ok(Self { version, own, v2_mount })
    }

    /// 1, 2, or 0 for none that could be used.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Our own group in each hierarchy, with the controllers that it has.
    pub(crate) fn own(&self) -> impl Iterator<Item = (&Path, &[String])> {
        self.own.iter().map(|(path, controllers)| (path.as_path(), controllers.as_slice()))
    }

    /// The directories that hold our own base groups, for finding what was left.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.own.iter().map(|(path, _)| path.as_path())
    }

    /// All groups of v2: each service and each scope that a manager was started in had its own.
    pub(crate) fn v2_directories(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = self.v2_mount.iter().cloned().collect();
        let mut next = 0;
        while let Some(directory) = found.get(next) {
            let below: Vec<PathBuf> = fs::read_dir(directory)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .collect();
            found.extend(below);
            next += 1;
        }
        found
    }
}

/// The controllers of v2 that are used, of those that a group has; `None` without a needed one.
fn v2_controllers(have: &str) -> Option<Vec<String>> {
    let has = |name: &&str| have.split_whitespace().any(|have| have == *name);
    NEEDED
        .iter()
        .all(has)
        .then(|| V2_CONTROLLERS.iter().copied().filter(has).map(str::to_owned).collect())
}

/// The path of a group below the root of its mount.
fn beneath<'a>(root: &str, group: &'a str) -> &'a str {
    match group.strip_prefix(root.trim_end_matches('/')) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => group.trim_start_matches('/'),
    }
}

/// A manager before us may have put the shell that we come from into its leaf.
fn out_of_leaf(own: PathBuf) -> PathBuf {
    match own.parent() {
        Some(parent) if own.ends_with(LEAF) => parent.to_owned(),
        _ => own,
    }
}

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
    version: u32,
    controllers: Vec<Vec<String>>,
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

/// The launcher's hold on the base groups.
#[derive(Debug)]
pub(crate) struct Meters {
    version: u32,
    bases: Vec<(Vec<String>, OwnedFd)>,
}

/// The group of one run.
#[derive(Debug)]
pub(crate) struct Group {
    name: String,
    /// Controllers, directory, and the file through which a process joins.
    parts: Vec<(Vec<String>, OwnedFd, Option<OwnedFd>)>,
    cpu_at_lease: u64,
}

impl Meters {
    /// Takes the descriptors from `first` on, as `layout` says.
    ///
    /// # Safety
    /// They must be open, and nobody else's in this process.
    pub(crate) unsafe fn inherit(layout: Layout, first: i32) -> Self {
        let bases = layout
            .controllers
            .into_iter()
            .zip(first..)
            // SAFETY: the caller vouches that each is open and ours alone.
            .map(|(controllers, fd)| (controllers, unsafe { OwnedFd::from_raw_fd(fd) }))
            .collect();
        Self { version: layout.version, bases }
    }

    /// 1, 2, or 0 for none.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Whether a controller's limits are in force.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.bases.iter().any(|(have, _)| have.iter().any(|name| name == controller))
    }

    /// Whether memory that is swapped out counts; where nothing can be swapped out, it does.
    pub(crate) fn counts_swap(&self) -> bool {
        let files = ["memory.memsw.limit_in_bytes", "memory.swap.max"];
        let knob =
            |base: &OwnedFd| files.iter().any(|file| open_at(base, file, OFlags::RDONLY).is_ok());
        let swaps =
            fs::read_to_string("/proc/swaps").map_or(0, |text| text.lines().skip(1).count());
        swaps == 0 || self.bases.iter().any(|(_, base)| knob(base))
    }

    /// Makes the group of a run and sets its limits.
    pub(crate) fn create(&self, name: String, limits: &CellLimits) -> Jail<Group> {
        let mut group = Group { name, parts: Vec::new(), cpu_at_lease: 0 };
        let made = self.make(&mut group).and_then(|()| self.limit(&group, limits));
        if made.is_err() {
            // No process is in it, so that nothing keeps it.
            let _ = self.remove(&group);
        }
        made.map(|()| group)
    }

    fn make(&self, group: &mut Group) -> Jail<()> {
        for (controllers, base) in &self.bases {
            mkdirat(base, group.name.as_str(), Mode::from_raw_mode(0o755))
                .step("make the control group of a run")?;
            let directory = open_at(base, &group.name, OFlags::RDONLY | OFlags::DIRECTORY)
                .step("open the control group of a run")?;
            let tasks = match self.version {
                1 => Some(
                    open_at(&directory, "tasks", OFlags::WRONLY)
                        .step("open the tasks of a control group")?,
                ),
                _ => None,
            };
            group.parts.push((controllers.clone(), directory, tasks));
        }
        Ok(())
    }

    fn limit(&self, group: &Group, limits: &CellLimits) -> Jail<()> {
        let quota = u64::from(limits.millicpus) * PERIOD_US / 1000;
        // One more than the program's: the cell's first process.
        let processes = limits.processes.saturating_add(1);
        for (controllers, directory, _) in &group.parts {
            let has = |name: &str| controllers.iter().any(|have| have == name);
            if self.version == 2 {
                write_at(directory, "memory.max", limits.memory)?;
                optional(write_at(directory, "memory.swap.max", 0))?;
                optional(write_at(directory, "memory.oom.group", 1))?;
                write_at(directory, "pids.max", processes)?;
                if has("cpu") {
                    write_at(directory, "cpu.max", format_args!("{quota} {PERIOD_US}"))?;
                }
                continue;
            }
            if has("memory") {
                write_at(directory, "memory.limit_in_bytes", limits.memory)?;
                optional(write_at(directory, "memory.memsw.limit_in_bytes", limits.memory))?;
            }
            if has("pids") {
                write_at(directory, "pids.max", processes)?;
            }
            if has("cpu") {
                optional(write_at(directory, "cpu.cfs_period_us", PERIOD_US))?;
                optional(write_at(directory, "cpu.cfs_quota_us", quota))?;
            }
        }
        Ok(())
    }

    /// Removes the group of a run: `false` while a process is still leaving it.
    pub(crate) fn remove(&self, group: &Group) -> bool {
        self.bases.iter().all(|(_, base)| {
            !matches!(unlinkat(base, group.name.as_str(), AtFlags::REMOVEDIR), Err(Errno::BUSY))
        })
    }
}

impl Group {
    /// The descriptor for CLONE_INTO_CGROUP.
    pub(crate) fn clone_into(&self) -> Option<i32> {
        self.parts.iter().find(|(_, _, tasks)| tasks.is_none()).map(|(_, fd, _)| fd.as_raw_fd())
    }

    /// The files into which a process of v1 writes `0` to join.
    pub(crate) fn joins(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.parts.iter().filter_map(|(_, _, tasks)| tasks.as_ref().map(AsFd::as_fd))
    }

    /// Kills every process in the group at once, also one that is about to be born. v2 only: on v1
    /// the end of the cell's first process has to take the others along.
    pub(crate) fn kill(&self) {
        for (_, directory, _) in self.parts.iter().filter(|(_, _, tasks)| tasks.is_none()) {
            // Kernels before 5.14 have no such file.
            let _ = write_at(directory, "cgroup.kill", 1);
        }
    }

    /// From here on CPU time counts as the program's.
    pub(crate) fn lease(&mut self) {
        self.cpu_at_lease = self.cpu_total().unwrap_or(0);
    }

    /// CPU time since the lease, in microseconds.
    pub(crate) fn cpu_us(&self) -> Option<u64> {
        self.cpu_total().map(|total| total.saturating_sub(self.cpu_at_lease))
    }

    fn cpu_total(&self) -> Option<u64> {
        self.number("cpuacct.usage")
            .map(|nanoseconds| nanoseconds / 1000)
            .or_else(|| self.keyed("cpu.stat", "usage_usec"))
    }

    /// What the kernel counted.
    pub(crate) fn count(&self, counters: &mut Counters) {
        counters.oom_kills = self
            .keyed("memory.oom_control", "oom_kill")
            .or_else(|| self.keyed("memory.events", "oom_kill"));
        counters.memory_peak =
            self.number("memory.max_usage_in_bytes").or_else(|| self.number("memory.peak"));
        counters.cpu_us = self.cpu_us();
        // On v2 since Linux 6.12 the first counts what our own limit refused, and the second that
        // and what limits below us refused; of a group without children they say the same.
        counters.forks_refused =
            self.keyed("pids.events.local", "max").or_else(|| self.keyed("pids.events", "max"));
        counters.processes_peak = self.number("pids.peak").map(|peak| peak.saturating_sub(1));
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        self.text(file)?
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
    }

    fn text(&self, file: &str) -> Option<String> {
        let controller = file.split('.').next()?;
        let (_, directory, _) = self
            .parts
            .iter()
            // A group of v2 is one directory, and has the CPU's statistics without its controller.
            .find(|(controllers, _, tasks)| {
                tasks.is_none() || controllers.iter().any(|name| name == controller)
            })?;
        let fd = open_at(directory, file, OFlags::RDONLY).ok()?;
        let mut buffer = [0; 2048];
        let length = rustix::io::read(fd, &mut buffer).ok()?;
        std::str::from_utf8(&buffer[..length]).ok().map(str::to_owned)
    }
}

fn open_at(directory: impl AsFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(directory, name, flags | OFlags::CLOEXEC, Mode::empty())
}

fn write_at(directory: &OwnedFd, name: &'static str, value: impl std::fmt::Display) -> Jail<()> {
    open_at(directory, name, OFlags::WRONLY)
        .and_then(|fd| rustix::io::write(fd, value.to_string().as_bytes()))
        .map(drop)
        .step(name)
}

/// A knob that not every kernel has.
fn optional(result: Jail<()>) -> Jail<()> {
    match result {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_hierarchies_are_found_with_their_own_groups() {
        let found = Hierarchies::parse(
            "3:cpu,cpuacct:/a\n2:memory:/docker/x\n1:pids:/\n0::/\n",
            "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             31 25 0:27 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
             32 25 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n",
        )
        .unwrap();
        assert_eq!(found.version, 1);
        let paths: Vec<_> = found.directories().map(|path| path.display().to_string()).collect();
        assert_eq!(
            paths,
            ["/sys/fs/cgroup/cpu,cpuacct/a", "/sys/fs/cgroup/memory/", "/sys/fs/cgroup/pids/"]
        );
    }

    #[test]
    fn a_hierarchy_that_is_mounted_twice_is_used_once() {
        let found = Hierarchies::parse(
            "2:memory:/docker/xyz\n",
            "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             31 25 0:26 / /elsewhere rw - cgroup cgroup rw,memory\n",
        )
        .unwrap();
        let paths: Vec<_> = found.directories().collect();
        assert_eq!(paths, [Path::new("/sys/fs/cgroup/memory/docker/xyz")]);
        assert_eq!(beneath("/docker/x", "/docker/xyz"), "docker/xyz");
        assert_eq!(beneath("/docker/x", "/docker/x"), "");
        assert_eq!(out_of_leaf("/a/ampoule.manager".into()), Path::new("/a"));
    }

    #[test]
    fn v2_needs_memory_and_pids_and_takes_cpu_where_it_is() {
        let found = |have: &str| v2_controllers(have).map(|list| list.join(" "));
        assert_eq!(found("cpuset cpu io memory pids\n").as_deref(), Some("memory pids cpu"));
        assert_eq!(found("memory pids\n").as_deref(), Some("memory pids"));
        assert_eq!(found("cpu pids\n"), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn no_hierarchy_is_version_zero() {
        assert_eq!(Hierarchies::parse("0::/\n", "").unwrap().version, 0);
    }
}
