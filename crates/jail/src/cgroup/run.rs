//! The launcher's side: a group for each run, beneath the base groups.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat},
    io::Errno,
};

use super::base::Layout;
use crate::{
    error::{Jail, Step},
    protocol::{CellLimits, Counters},
};

const PERIOD_US: u64 = 100_000;

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
    /// Its counters, open: reading them once more is all that an answer waits for.
    counters: Vec<(&'static str, OwnedFd)>,
    cpu_at_lease: u64,
}

/// What is counted, as v1 and as v2 names it.
const COUNTERS: [&[&str]; 2] = [
    &[
        "memory.oom_control",
        "memory.max_usage_in_bytes",
        "cpuacct.usage",
        "pids.events",
        "pids.peak",
    ],
    &["memory.events", "memory.peak", "cpu.stat", "pids.events.local", "pids.events", "pids.peak"],
];

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

    /// Makes the group of a run, still without limits.
    pub(crate) fn create(&self, name: String) -> Jail<Group> {
        let mut group = Group { name, parts: Vec::new(), counters: Vec::new(), cpu_at_lease: 0 };
        let made = self.make(&mut group);
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

    /// Sets the limits of a run, before there is a program in it.
    pub(crate) fn limit(&self, group: &Group, limits: &CellLimits) -> Jail<()> {
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
        self.directory_to_be_born_in().map(|fd| fd.as_raw_fd())
    }

    /// The same, to hand on.
    pub(crate) fn directory_to_be_born_in(&self) -> Option<BorrowedFd<'_>> {
        self.parts.iter().find(|(_, _, tasks)| tasks.is_none()).map(|(_, fd, _)| fd.as_fd())
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
        let version = usize::from(self.clone_into().is_some());
        for file in COUNTERS[version] {
            if let Some(fd) = self.open(file) {
                self.counters.push((file, fd));
            }
        }
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
        let mut buffer = [0; 2048];
        let length = match self.counters.iter().find(|(name, _)| *name == file) {
            Some((_, fd)) => rustix::io::pread(fd, &mut buffer, 0).ok()?,
            None if self.counters.is_empty() => {
                rustix::io::read(self.open(file)?, &mut buffer).ok()?
            }
            None => return None,
        };
        std::str::from_utf8(&buffer[..length]).ok().map(str::to_owned)
    }

    fn open(&self, file: &str) -> Option<OwnedFd> {
        let controller = file.split('.').next()?;
        let (_, directory, _) = self
            .parts
            .iter()
            // A group of v2 is one directory, and has the CPU's statistics without its controller.
            .find(|(controllers, _, tasks)| {
                tasks.is_none() || controllers.iter().any(|name| name == controller)
            })?;
        open_at(directory, file, OFlags::RDONLY).ok()
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
