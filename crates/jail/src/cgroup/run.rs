//! The launcher's side: a group for each run, beneath the base groups.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::base::Layout;
use crate::{
    error::{Jail, Step},
    protocol::{CellLimits, Counters},
};

const PERIOD_US: u64 = 100_000;

/// The base group in one hierarchy, and what it controls.
#[derive(Debug)]
struct Base {
    controllers: Vec<String>,
    directory: OwnedFd,
}

/// The launcher's hold on the base groups.
#[derive(Debug)]
pub(crate) struct Meters {
    version: u32,
    bases: Rc<[Base]>,
}

/// The group of one run. Its files are named from the bases on: many groups wait to be used.
#[derive(Debug)]
pub(crate) struct Group {
    name: String,
    bases: Rc<[Base]>,
    /// v1: the files through which a process joins, until the worker has.
    tasks: Vec<OwnedFd>,
    /// v2: the directory that a process is born into.
    directory: Option<OwnedFd>,
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
            .map(|(controllers, fd)| Base {
                controllers,
                // SAFETY: the caller vouches that each is open and ours alone.
                directory: unsafe { OwnedFd::from_raw_fd(fd) },
            })
            .collect();
        Self { version: layout.version, bases }
    }

    /// 1, 2, or 0 for none.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Whether a controller's limits are in force.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.bases.iter().any(|base| base.has(controller))
    }

    /// Whether memory that is swapped out counts; where nothing can be swapped out, it does.
    pub(crate) fn counts_swap(&self) -> bool {
        let files = ["memory.memsw.limit_in_bytes", "memory.swap.max"];
        let knob =
            |at: &OwnedFd| files.iter().any(|file| open_at(at, file, OFlags::RDONLY).is_ok());
        let swaps =
            fs::read_to_string("/proc/swaps").map_or(0, |text| text.lines().skip(1).count());
        swaps == 0 || self.bases.iter().any(|base| knob(&base.directory))
    }

    /// Makes the group of a run, still without limits.
    pub(crate) fn create(&self, name: String) -> Jail<Group> {
        let mut group = Group {
            name,
            bases: Rc::clone(&self.bases),
            tasks: Vec::new(),
            directory: None,
            counters: Vec::new(),
            cpu_at_lease: 0,
        };
        let made = self.make(&mut group);
        if made.is_err() {
            // No process is in it, so that nothing keeps it.
            let _ = self.remove(&group);
        }
        made.map(|()| group)
    }

    fn make(&self, group: &mut Group) -> Jail<()> {
        for base in self.bases.iter() {
            mkdirat(&base.directory, group.name.as_str(), Mode::from_raw_mode(0o755))
                .step("make the control group of a run")?;
            if self.version == 1 {
                let tasks = group.open_in(base, "tasks", OFlags::WRONLY);
                group.tasks.push(tasks.step("open the tasks of a control group")?);
            } else {
                let directory =
                    open_at(&base.directory, &group.name, OFlags::RDONLY | OFlags::DIRECTORY);
                group.directory = Some(directory.step("open the control group of a run")?);
            }
        }
        Ok(())
    }

    /// Sets the limits of a run, before there is a program in it.
    pub(crate) fn limit(&self, group: &Group, limits: &CellLimits) -> Jail<()> {
        let quota = u64::from(limits.millicpus) * PERIOD_US / 1000;
        // One more than the program's: the cell's first process.
        let processes = limits.processes.saturating_add(1);
        for base in self.bases.iter() {
            let write = |file, value: &dyn std::fmt::Display| group.write_in(base, file, value);
            if self.version == 2 {
                write("memory.max", &limits.memory)?;
                optional(write("memory.swap.max", &0))?;
                optional(write("memory.oom.group", &1))?;
                write("pids.max", &processes)?;
                if base.has("cpu") {
                    write("cpu.max", &format_args!("{quota} {PERIOD_US}"))?;
                }
                continue;
            }
            if base.has("memory") {
                write("memory.limit_in_bytes", &limits.memory)?;
                optional(write("memory.memsw.limit_in_bytes", &limits.memory))?;
            }
            if base.has("pids") {
                write("pids.max", &processes)?;
            }
            if base.has("cpu") {
                // The period is the kernel's default.
                optional(write("cpu.cfs_quota_us", &quota))?;
            }
        }
        Ok(())
    }

    /// Removes the group of a run: `false` while a process is still leaving it.
    pub(crate) fn remove(&self, group: &Group) -> bool {
        self.bases.iter().all(|base| {
            let removed = unlinkat(&base.directory, group.name.as_str(), AtFlags::REMOVEDIR);
            !matches!(removed, Err(Errno::BUSY))
        })
    }
}

impl Base {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|have| have == controller)
    }
}

impl Group {
    /// The descriptor for CLONE_INTO_CGROUP.
    pub(crate) fn clone_into(&self) -> Option<i32> {
        self.directory.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The same, to hand on.
    pub(crate) fn directory_to_be_born_in(&self) -> Option<BorrowedFd<'_>> {
        self.directory.as_ref().map(AsFd::as_fd)
    }

    /// The files into which a process of v1 writes `0` to join.
    pub(crate) fn joins(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks.iter().map(AsFd::as_fd)
    }

    /// Nobody joins any more from outside.
    pub(crate) fn settle(&mut self) {
        self.tasks.clear();
    }

    /// Kills every process in the group at once, also one that is about to be born. v2 only: on v1
    /// the end of the cell's first process has to take the others along.
    pub(crate) fn kill(&self) {
        if self.directory.is_some() {
            for base in self.bases.iter() {
                // Kernels before 5.14 have no such file.
                let _ = self.write_in(base, "cgroup.kill", &1);
            }
        }
    }

    /// Lets what is killed end as fast as it can: what a bound on CPU time holds back ends when its
    /// next share comes, a tenth of a second later.
    pub(crate) fn hurry(&self) {
        for base in self.bases.iter().filter(|base| base.has("cpu")) {
            // A group that keeps its bound ends all the same.
            let _ = match self.directory {
                Some(_) => self.write_in(base, "cpu.max", &format_args!("max {PERIOD_US}")),
                None => self.write_in(base, "cpu.cfs_quota_us", &-1),
            };
        }
        if self.directory.is_none() {
            self.kill_each();
        }
    }

    /// v1: kills the processes one by one. That all of them are is the work of the cell's first
    /// process, which first has to get its turn among those that it ends.
    fn kill_each(&self) {
        let found = self.processes().into_iter().filter_map(|pid| {
            let held = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            Some((pid, held))
        });
        let found: Vec<_> = found.collect();
        // Who is still in the group is held: another could have got a number in between.
        let still = self.processes();
        for (_, held) in found.iter().filter(|(pid, _)| still.contains(pid)) {
            let _ = pidfd_send_signal(held, Signal::KILL);
        }
    }

    /// The group's processes, by their numbers here.
    fn processes(&self) -> Vec<i32> {
        let Some(base) = self.bases.first() else { return Vec::new() };
        let opened = self.open_in(base, "cgroup.procs", OFlags::RDONLY);
        let text = opened.map(|file| io::read_to_string(File::from(file)).unwrap_or_default());
        text.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
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

    /// Opens one of its files, in whichever hierarchy has it.
    fn open(&self, file: &str) -> Option<OwnedFd> {
        let controller = file.split('.').next()?;
        // A group of v2 is one directory, and has the CPU's statistics without its controller.
        let base =
            self.bases.iter().find(|base| self.directory.is_some() || base.has(controller))?;
        self.open_in(base, file, OFlags::RDONLY).ok()
    }

    fn open_in(&self, base: &Base, file: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_at(&base.directory, &format!("{}/{file}", self.name), flags)
    }

    fn write_in(&self, base: &Base, file: &'static str, value: &dyn std::fmt::Display) -> Jail<()> {
        self.open_in(base, file, OFlags::WRONLY)
            .and_then(|fd| rustix::io::write(fd, value.to_string().as_bytes()))
            .map(drop)
            .step(file)
    }
}

fn open_at(directory: impl AsFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(directory, name, flags | OFlags::CLOEXEC, Mode::empty())
}

/// A knob that not every kernel has.
fn optional(result: Jail<()>) -> Jail<()> {
    match result {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
        other => other,
    }
}
