//! The watch: memory, processes and CPU time of a run where no control group counts them.
//!
//! The launcher looks at every process of the run every few milliseconds, through its own `/proc`.
//! In between the kernel's limit of processes per user namespace holds (`RLIMIT_NPROC`), so that a
//! fork tree cannot outrun a look. What counts as memory:
//!
//! - the anonymous pages of each process. Processes share pages after a fork; where their sum is
//!   above the limit, each page is counted by its share, which takes longer;
//! - scratch space in use;
//! - shared anonymous memory, by its size: pages that are mapped nowhere at the moment still take
//!   room. It is looked for less often, because it needs the whole list of mappings.
//!
//! Anonymous files would escape all three (nobody has to map them), so the filter has no
//! `memfd_create` on this rung. Buffers of pipes and sockets, page tables and `/dev/shm` (which has
//! a bound of its own) are not counted.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ampoule_core::StopReason;
use rustix::fs::fstatvfs;

use super::slot::{Handles, Slot, State};
use crate::protocol::{CellLimits, Counters};

/// How often the watch looks.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// How many times as long as it took to count shares nobody counts them again.
const REST: u32 = 4;
/// Every how many looks shared memory is looked for.
const SHARED_EVERY: u64 = 8;
/// The calls that would make memory which the watch cannot see.
pub(super) const UNSEEN_MEMORY: &str = "memfd_create";

/// What the watch knows of one run.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The run's pid namespace, as `/proc` names it.
    namespace: PathBuf,
    looks: u64,
    shared: u64,
    scratch: u64,
    memory_peak: u64,
    tasks_peak: u64,
    /// CPU time by process, as last seen.
    cpu: BTreeMap<u32, u64>,
    /// Until when the shares of pages are not counted again: it is slow, and must not become all
    /// that we do.
    rest: Option<Instant>,
    /// CPU time of processes that are gone.
    cpu_gone: u64,
    cpu_at_lease: u64,
}

/// What one look has found.
#[derive(Debug, Default)]
struct Tally {
    anonymous: u64,
    tasks: u64,
    cpu: BTreeMap<u32, u64>,
    /// Shared anonymous objects by inode, with their sizes.
    shared: BTreeMap<u64, u64>,
}

impl Watched {
    /// Begins to watch the run whose first process `/proc` shows as `pid`.
    pub(super) fn new(pid: u32) -> io::Result<Self> {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/pid"))?;
        Ok(Self { namespace, ..Self::default() })
    }

    /// From here on CPU time counts as the program's.
    pub(super) fn lease(&mut self) {
        self.look(None);
        self.cpu_at_lease = self.cpu_total();
    }

    /// CPU time since the lease, in microseconds.
    pub(super) fn cpu_us(&self) -> u64 {
        self.cpu_total().saturating_sub(self.cpu_at_lease)
    }

    fn cpu_total(&self) -> u64 {
        self.cpu_gone + self.cpu.values().sum::<u64>()
    }

    /// Looks once; gives the memory and the tasks in use now.
    pub(super) fn look(&mut self, handles: Option<&Handles>) -> (u64, u64) {
        let with_shared = self.looks.is_multiple_of(SHARED_EVERY);
        self.looks += 1;
        let tally = tally(&self.namespace, with_shared);
        if with_shared {
            self.shared = tally.shared.values().sum();
        }
        for (pid, before) in std::mem::take(&mut self.cpu) {
            // Less than before is another process with the number of one that is gone.
            if tally.cpu.get(&pid).is_none_or(|now| *now < before) {
                self.cpu_gone += before;
            }
        }
        self.cpu = tally.cpu;
        if let Some(Handles { workspace, tmp, .. }) = handles {
            self.scratch = used(workspace) + used(tmp);
        }
        let memory = tally.anonymous + self.shared + self.scratch;
        // The first process of the cell is ours.
        let tasks = tally.tasks.saturating_sub(1);
        if tasks <= 1 {
            // Nothing is shared, nothing is counted twice.
            self.memory_peak = self.memory_peak.max(memory);
        }
        self.tasks_peak = self.tasks_peak.max(tasks);
        (memory, tasks)
    }

    /// The memory in use with each shared page counted once, unless that was done just now.
    fn memory_by_shares(&mut self) -> Option<u64> {
        let began = Instant::now();
        if self.rest.is_some_and(|rest| began < rest) {
            return None;
        }
        let shares: u64 = processes(&self.namespace)
            .map(|(_, process)| {
                let text = fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default();
                share_of_anonymous(&text)
            })
            .sum();
        self.rest = Some(Instant::now() + began.elapsed() * REST);
        Some(shares + self.shared + self.scratch)
    }

    /// What the watch has counted.
    pub(super) fn count(&self, counters: &mut Counters) {
        counters.cpu_us = Some(self.cpu_us());
        counters.memory_peak = Some(self.memory_peak).filter(|peak| *peak > 0);
        counters.processes_peak = Some(self.tasks_peak).filter(|peak| *peak > 0);
    }
}

impl Slot {
    /// Looks at a run that is watched; says which limit it has passed, if any.
    pub(super) fn passed_limit(&mut self) -> Option<StopReason> {
        if self.state != State::Leased {
            return None;
        }
        let watched = self.watched.as_mut()?;
        let (memory, tasks) = watched.look(self.handles.as_ref());
        let CellLimits { memory: most_memory, processes: most_tasks, .. } = self.limits;
        if tasks > u64::from(most_tasks) {
            return Some(StopReason::Processes);
        }
        let memory = match tasks {
            0 | 1 => memory,
            _ if memory <= most_memory => memory,
            _ => watched.memory_by_shares()?,
        };
        watched.memory_peak = watched.memory_peak.max(memory);
        (memory > most_memory).then_some(StopReason::Memory)
    }
}

/// Bytes in use of a scratch file system.
fn used(directory: impl std::os::fd::AsFd) -> u64 {
    fstatvfs(directory).map_or(0, |stat| (stat.f_blocks - stat.f_bfree) * stat.f_frsize)
}

/// Counts every process of a pid namespace. One that ends meanwhile counts no more.
fn tally(namespace: &Path, with_shared: bool) -> Tally {
    let mut tally = Tally::default();
    for (pid, process) in processes(namespace) {
        tally.add(pid, &process, with_shared);
    }
    tally
}

/// The processes of a pid namespace, with their places in `/proc`.
fn processes(namespace: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let process = entry.path();
        let link = fs::read_link(process.join("ns/pid")).ok()?;
        (link == namespace).then_some((pid, process))
    })
}

impl Tally {
    fn add(&mut self, pid: u32, process: &Path, with_shared: bool) {
        let read = |name: &str| fs::read_to_string(process.join(name)).unwrap_or_default();
        if let Some((tasks, cpu)) = tasks_and_cpu(&read("stat")) {
            self.tasks += tasks;
            self.cpu.insert(pid, cpu);
        }
        self.anonymous += anonymous(&read("statm"));
        if with_shared {
            for line in read("maps").lines() {
                if let Some((inode, size)) = shared_object(line) {
                    let known = self.shared.entry(inode).or_default();
                    *known = size.max(*known);
                }
            }
        }
    }
}

/// Threads, and CPU time in microseconds, of a line of `/proc/<pid>/stat`.
fn tasks_and_cpu(stat: &str) -> Option<(u64, u64)> {
    // The second field may hold anything, so count from its end.
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let microseconds_a_tick = 1_000_000 / rustix::param::clock_ticks_per_second();
    Some((number(17)?, (number(11)? + number(12)?) * microseconds_a_tick))
}

/// Bytes of anonymous pages, of `/proc/<pid>/statm`.
fn anonymous(statm: &str) -> u64 {
    let mut pages = statm.split(' ').skip(1).map_while(|field| field.parse::<u64>().ok());
    match (pages.next(), pages.next()) {
        (Some(resident), Some(shared)) => {
            resident.saturating_sub(shared) * rustix::param::page_size() as u64
        }
        _ => 0,
    }
}

/// Bytes of anonymous pages, each shared one by its share, of `/proc/<pid>/smaps_rollup`.
fn share_of_anonymous(rollup: &str) -> u64 {
    let kilobytes = rollup.lines().find_map(|line| {
        line.strip_prefix("Pss_Anon:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    kilobytes.unwrap_or(0) << 10
}

/// The inode and the least size of a shared anonymous object, from a line of `/proc/<pid>/maps`.
fn shared_object(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, mode, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let (_, inode, name) = (fields.next()?, fields.next()?, fields.next()?);
    if !mode.ends_with('s') || name != "/dev/zero" {
        return None;
    }
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let (from, to) = range.split_once('-')?;
    let size = hexadecimal(to)?.checked_sub(hexadecimal(from)?)?;
    Some((inode.parse().ok()?, hexadecimal(offset)? + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4 1 0 0 0 150 50 9 9 20 0 3 0 99 1 2";
        assert_eq!(
            tasks_and_cpu(stat),
            Some((3, 200 * (1_000_000 / rustix::param::clock_ticks_per_second())))
        );
        assert_eq!(tasks_and_cpu(""), None);
        assert_eq!(anonymous("900 50 20 1 0 3 0\n"), 30 * rustix::param::page_size() as u64);
        assert_eq!(anonymous(""), 0);
        assert_eq!(share_of_anonymous("Pss:  90 kB\nPss_Anon:      12 kB\n"), 12 << 10);
        let shared = "7f0000000000-7f0000100000 rw-s 00002000 00:01 77     /dev/zero (deleted)";
        assert_eq!(shared_object(shared), Some((77, 0x10_2000)));
        for other in [
            "7f0000000000-7f0000100000 rw-p 00000000 00:01 77     /dev/zero (deleted)",
            "7f0000000000-7f0000100000 rw-s 00000000 00:21 77     /tmp/file",
            "7f0000000000-7f0000100000 rw-p 00000000 00:00 0",
        ] {
            assert_eq!(shared_object(other), None);
        }
    }

    #[test]
    fn a_watch_sees_its_own_namespace() {
        let mut watched = Watched::new(std::process::id()).unwrap();
        let (memory, tasks) = watched.look(None);
        assert!(memory > 0);
        assert!(tasks > 0);
        let mut counters = Counters::default();
        watched.count(&mut counters);
        assert_eq!(counters.processes_peak, Some(tasks));
        assert!(counters.cpu_us.is_some());
    }
}
