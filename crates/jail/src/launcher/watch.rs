//! The watch: memory, processes and CPU time of a run where no control group counts them.
//!
//! The launcher looks at every process of its runs every few milliseconds, through its own `/proc`;
//! never so often that looking becomes all that it does. In between the kernel's limit of processes
//! per user namespace holds (`RLIMIT_NPROC`), so that a fork tree cannot outrun a look. What counts
//! as memory:
//!
//! - the anonymous pages of each process, in memory or swapped out, and its page tables. Processes
//!   share pages after a fork, and all of them until a `vfork` has done its exec: where the plain sum
//!   is above the limit, each page is counted by its share, which takes longer and so is spread over
//!   looks;
//! - scratch space in use;
//! - each socket, at the size that its buffers have by themselves.
//!
//! Other memory would escape, because it need be mapped nowhere at the moment: the `watched` rules of
//! the policy refuse anonymous files, shared anonymous memory and larger buffers, and `/dev/zero`
//! shows what cannot be mapped. Pipes have a bound of the kernel's per user, `/dev/shm` one of ours;
//! structures of the kernel's (mappings, locks, open files) are not counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ampoule_core::StopReason;
use rustix::fs::fstatvfs;

use super::{
    Launcher,
    slot::{Handles, Slot, State},
};
use crate::{
    protocol::{CellLimits, Counters},
    sys,
};

/// How often the watch looks, at most.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// How many times as long as a look took nobody looks again.
const REST: u32 = 3;
/// How long one look may count shares, and how long one count may take in all. A run whose shares
/// take longer has made them so.
const SHARES_A_LOOK: Duration = Duration::from_millis(2);
const SHARES_IN_ALL: Duration = Duration::from_millis(100);
/// Every how many looks sockets are counted, and what each counts: its buffers as the kernel gives
/// them.
const SOCKETS_EVERY: u64 = 8;
const SOCKET: u64 = 208 << 10;

/// What the watch knows of one run.
#[derive(Debug)]
pub(super) struct Watched {
    /// The cell's first process, as our `/proc` shows it, and its pid namespace.
    pid: u32,
    namespace: PathBuf,
    looks: u64,
    scratch: u64,
    sockets: u64,
    memory_peak: u64,
    tasks_peak: u64,
    count: Option<SharesCount>,
    cpu: u64,
    cpu_at_lease: u64,
}

/// One process, as one look has found it.
#[derive(Clone, Debug)]
struct Process {
    pid: u32,
    parent: u32,
    /// Where its memory is told: its own place, or a thread's if the first one has ended.
    place: PathBuf,
}

/// What one look has found of one run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    anonymous: u64,
    tasks: u64,
    cpu: u64,
    processes: Vec<Process>,
}

/// A count of shares that is going on.
#[derive(Debug)]
struct SharesCount {
    left: Vec<Process>,
    sum: u64,
    spent: Duration,
}

impl Watched {
    /// Begins to watch the run whose first process `/proc` shows as `pid`.
    pub(super) fn new(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            namespace: fs::read_link(format!("/proc/{pid}/ns/pid"))?,
            looks: 0,
            scratch: 0,
            sockets: 0,
            memory_peak: 0,
            tasks_peak: 0,
            count: None,
            cpu: 0,
            cpu_at_lease: 0,
        })
    }

    /// From here on CPU time counts as the program's.
    pub(super) fn lease(&mut self) {
        self.look();
        self.cpu_at_lease = self.cpu;
    }

    /// CPU time since the lease, in microseconds. Of processes that nobody waited for it is lost.
    pub(super) fn cpu_us(&self) -> u64 {
        self.cpu.saturating_sub(self.cpu_at_lease)
    }

    /// Looks at this run alone, to have seen it once more.
    pub(super) fn look(&mut self) {
        let wanted = BTreeSet::from([self.namespace.clone()]);
        if let Some(tally) = survey(&wanted).remove(&self.namespace) {
            let (memory, tasks) = self.take(&tally, None);
            if tasks <= 1 {
                self.memory_peak = self.memory_peak.max(memory);
            }
        }
    }

    /// Takes what a look has found; gives the memory, with shared pages counted for each who has
    /// them, and the tasks.
    fn take(&mut self, tally: &Tally, handles: Option<&Handles>) -> (u64, u64) {
        if let Some(Handles { workspace, tmp, .. }) = handles {
            self.scratch = used(workspace) + used(tmp);
        }
        if self.looks.is_multiple_of(SOCKETS_EVERY) {
            let path = format!("/proc/{}/net/sockstat", self.pid);
            self.sockets = sockets(&fs::read_to_string(path).unwrap_or_default()) * SOCKET;
        }
        self.looks += 1;
        self.cpu = self.cpu.max(tally.cpu);
        // The first process of the cell is ours.
        let tasks = tally.tasks.saturating_sub(1);
        self.tasks_peak = self.tasks_peak.max(tasks);
        (tally.anonymous + self.scratch + self.sockets, tasks)
    }

    /// Goes on counting each page by its share; gives the memory when all are counted, or it has
    /// become clear that nobody could count them.
    fn memory_by_shares(&mut self, tally: Tally) -> Option<u64> {
        let began = Instant::now();
        let mut count = self.count.take().unwrap_or_else(|| SharesCount {
            left: apart(tally.processes),
            sum: 0,
            spent: Duration::ZERO,
        });
        while let Some(process) = count.left.pop() {
            count.sum += share(&process.place);
            if began.elapsed() > SHARES_A_LOOK {
                break;
            }
        }
        count.spent += began.elapsed();
        if count.left.is_empty() {
            return Some(count.sum + self.scratch + self.sockets);
        }
        let is_endless = count.spent > SHARES_IN_ALL;
        self.count = Some(count);
        is_endless.then_some(u64::MAX)
    }

    /// What the watch has counted.
    pub(super) fn count(&self, counters: &mut Counters) {
        counters.cpu_us = Some(self.cpu_us());
        counters.memory_peak = Some(self.memory_peak).filter(|peak| *peak > 0);
        counters.processes_peak = Some(self.tasks_peak).filter(|peak| *peak > 0);
    }
}

impl Slot {
    /// The pid namespace of a run that is to be looked at.
    fn namespace(&self) -> Option<&PathBuf> {
        let watched = self.watched.as_ref().filter(|_| self.state == State::Leased)?;
        Some(&watched.namespace)
    }

    /// The limit that a run has passed by what a look has found, if any.
    fn judge(&mut self, tally: Tally) -> Option<StopReason> {
        let watched = self.watched.as_mut()?;
        let (memory, tasks) = watched.take(&tally, self.handles.as_ref());
        let CellLimits { memory: most_memory, processes: most_tasks, .. } = self.limits;
        if tasks > u64::from(most_tasks) {
            return Some(StopReason::Processes);
        }
        let memory = if memory <= most_memory || tally.processes.len() <= 2 {
            watched.count = None;
            memory
        } else {
            watched.memory_by_shares(tally)?
        };
        if memory != u64::MAX {
            watched.memory_peak = watched.memory_peak.max(memory);
        }
        (memory > most_memory).then_some(StopReason::Memory)
    }
}

impl Launcher {
    /// When the watch is to look next, if anything is to be looked at.
    pub(super) fn next_watch(&self, now: Instant) -> Option<Duration> {
        let any = self.slots.iter().flatten().any(|slot| slot.namespace().is_some());
        any.then(|| self.watch_after.saturating_duration_since(now))
    }

    /// Looks at all runs that are watched, if it is time, and ends those that have passed a limit.
    pub(super) fn watch_runs(&mut self) {
        let began = Instant::now();
        let wanted: BTreeSet<PathBuf> =
            self.slots.iter().flatten().filter_map(Slot::namespace).cloned().collect();
        if wanted.is_empty() || began < self.watch_after {
            return;
        }
        let mut found = survey(&wanted);
        for index in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[index] else { continue };
            let tally = slot.namespace().and_then(|namespace| found.remove(namespace));
            if let Some(reason) = tally.and_then(|tally| slot.judge(tally)) {
                self.stop(index, reason);
            }
        }
        self.watch_after = Instant::now() + TICK.max(began.elapsed() * REST);
    }
}

/// Bytes in use of a scratch file system.
fn used(directory: impl std::os::fd::AsFd) -> u64 {
    fstatvfs(directory).map_or(0, |stat| (stat.f_blocks - stat.f_bfree) * stat.f_frsize)
}

/// Counts every process of these pid namespaces. One that ends meanwhile counts no more.
fn survey(wanted: &BTreeSet<PathBuf>) -> BTreeMap<PathBuf, Tally> {
    let mut found: BTreeMap<PathBuf, Tally> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let place = entry.path();
        if let Ok(namespace) = fs::read_link(place.join("ns/pid"))
            && wanted.contains(&namespace)
        {
            found.entry(namespace).or_default().add(pid, place);
        }
    }
    found
}

impl Tally {
    fn add(&mut self, pid: u32, place: PathBuf) {
        let read = |place: &Path, name| fs::read_to_string(place.join(name)).unwrap_or_default();
        self.cpu += cpu(&read(&place, "stat")).unwrap_or(0);
        let mut status = read(&place, "status");
        let tasks = field(&status, "Threads:").unwrap_or(0);
        self.tasks += tasks;
        let mut told_at = place.clone();
        // The first thread may have ended, and then it tells of no memory any more.
        if field(&status, "RssAnon:").is_none() && tasks > 1 {
            for task in fs::read_dir(place.join("task")).into_iter().flatten().flatten() {
                let other = read(&task.path(), "status");
                if field(&other, "RssAnon:").is_some() {
                    (status, told_at) = (other, task.path());
                    break;
                }
            }
        }
        let kilobytes: u64 =
            ["RssAnon:", "VmSwap:", "VmPTE:"].iter().filter_map(|name| field(&status, name)).sum();
        self.anonymous += kilobytes << 10;
        let parent = field(&status, "PPid:").and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
        self.processes.push(Process { pid, parent, place: told_at });
    }
}

/// The processes without those that have all their memory in common with their parent, as after a
/// `vfork`.
fn apart(processes: Vec<Process>) -> Vec<Process> {
    let pids: BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
    let shares_all = |process: &Process| {
        pids.contains(&process.parent) && sys::same_memory(process.parent, process.pid) == Ok(true)
    };
    processes.into_iter().filter(|process| !shares_all(process)).collect()
}

/// Bytes of anonymous pages of a process, each by its share, and of its page tables.
fn share(place: &Path) -> u64 {
    let read = |name: &str| fs::read_to_string(place.join(name)).unwrap_or_default();
    let pages = field(&read("smaps_rollup"), "Pss_Anon:").unwrap_or(0);
    let status = read("status");
    let further: u64 = ["VmSwap:", "VmPTE:"].iter().filter_map(|name| field(&status, name)).sum();
    (pages + further) << 10
}

/// The number behind a name, of `/proc/<pid>/status` and its like.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// CPU time of a process and of the children that it has waited for, in microseconds, of a line of
/// `/proc/<pid>/stat`.
fn cpu(stat: &str) -> Option<u64> {
    // The second field may hold anything, so count from its end.
    let (_, after_name) = stat.rsplit_once(')')?;
    let times = after_name.split_whitespace().skip(11).take(4);
    let ticks: u64 = times.map_while(|field| field.parse::<u64>().ok()).sum();
    Some(ticks * (1_000_000 / rustix::param::clock_ticks_per_second()))
}

/// Sockets of a network namespace, of `/proc/<pid>/net/sockstat`.
fn sockets(sockstat: &str) -> u64 {
    field(sockstat, "sockets: used").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4 1 0 0 0 150 50 9 1 20 0 3 0 99 1 2";
        assert_eq!(cpu(stat), Some(210 * (1_000_000 / rustix::param::clock_ticks_per_second())));
        assert_eq!(cpu(""), None);
        let status = "Name:\tx\nPPid:\t3\nVmPTE:\t      12 kB\nRssAnon:\t     40 kB\nThreads:\t2\n";
        assert_eq!(field(status, "RssAnon:"), Some(40));
        assert_eq!(field(status, "VmPTE:"), Some(12));
        assert_eq!(field(status, "VmSwap:"), None);
        assert_eq!(sockets("sockets: used 17\nTCP: inuse 1 orphan 0\n"), 17);
    }

    #[test]
    fn a_watch_sees_its_own_namespace() {
        let mut watched = Watched::new(std::process::id()).unwrap();
        watched.look();
        let mut counters = Counters::default();
        watched.count(&mut counters);
        assert!(counters.processes_peak.is_some_and(|peak| peak > 0));
        assert!(counters.cpu_us.is_some());
    }

    #[test]
    fn a_process_has_its_own_memory_and_nobody_elses() {
        let own = std::process::id();
        assert_eq!(sys::same_memory(own, own), Ok(true));
        let parent = std::os::unix::process::parent_id();
        assert_ne!(sys::same_memory(own, parent), Ok(true));
    }
}
