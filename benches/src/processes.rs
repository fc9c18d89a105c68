//! What the kernel says of the service's processes, read from `/proc` as anybody could.
//!
//! ```text
//! manager ─ keeper ─ launcher (process 1 of a process namespace of its own, P0)
//!                     ├ zygote          in P0
//!                     ├ cell's process 1   one namespace further in
//!                     └ worker             the same, and not 1 there
//! ```

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::failure::{Failure, Result};

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) name: String,
    /// Its numbers, from our namespace inwards.
    pub(crate) numbers: Vec<u32>,
    pub(crate) resident_kb: u64,
}

impl Process {
    /// Reads one; nothing if it is gone, or has ended and was not reaped yet.
    fn read(pid: u32) -> Option<Self> {
        Self::parse(pid, &fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    fn parse(pid: u32, status: &str) -> Option<Self> {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        if field("State")?.starts_with(['Z', 'X']) {
            return None;
        }
        Some(Self {
            pid,
            parent: field("PPid")?.parse().ok()?,
            name: field("Name")?.to_owned(),
            numbers: field("NSpid")
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|number| number.parse().ok())
                .collect(),
            resident_kb: field("VmRSS").and_then(kilobytes).unwrap_or(0),
        })
    }
}

fn kilobytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse().ok()
}

/// All processes of one service.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) manager: u32,
    pub(crate) keeper: u32,
    pub(crate) launcher: u32,
    /// How many namespaces deep the launcher is.
    depth: usize,
    pub(crate) all: BTreeMap<u32, Process>,
}

impl Tree {
    /// Looks at every process of this machine.
    pub(crate) fn read(manager: u32) -> Result<Self> {
        let entries =
            fs::read_dir("/proc").map_err(|error| Failure::broken("read /proc", &error))?;
        let processes = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(Process::read);
        Self::of(manager, processes.map(|process| (process.pid, process)).collect())
    }

    fn of(manager: u32, everybody: BTreeMap<u32, Process>) -> Result<Self> {
        let is_ours = |process: &Process| {
            let mut pid = process.pid;
            // Parents have no smaller numbers once numbers begin anew, but chains are short.
            for _ in 0..64 {
                if pid == manager {
                    return true;
                }
                match everybody.get(&pid) {
                    Some(process) if process.parent != pid => pid = process.parent,
                    _ => return false,
                }
            }
            false
        };
        let all: BTreeMap<u32, Process> = everybody
            .iter()
            .filter(|(_, process)| is_ours(process))
            .map(|(pid, process)| (*pid, process.clone()))
            .collect();
        let child = |parent| all.values().find(|process| process.parent == parent);
        let missing = |what: &str| Failure::Broken(format!("the service has no {what}"));
        let keeper = child(manager).ok_or_else(|| missing("keeper"))?.pid;
        let launcher = child(keeper).ok_or_else(|| missing("launcher"))?;
        let (launcher, depth) = (launcher.pid, launcher.numbers.len());
        Ok(Self { manager, keeper, launcher, depth, all })
    }

    /// Whether a process lives in a cell.
    pub(crate) fn is_in_cell(&self, process: &Process) -> bool {
        process.numbers.len() > self.depth
    }

    /// Processes in cells that are not the cell's own first one: ready or running programs.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &Process> {
        self.all.values().filter(|process| {
            self.is_in_cell(process) && process.numbers.last().is_some_and(|number| *number != 1)
        })
    }

    /// The first processes of cells.
    pub(crate) fn cells(&self) -> impl Iterator<Item = &Process> {
        self.all
            .values()
            .filter(|process| self.is_in_cell(process) && process.numbers.last() == Some(&1))
    }

    /// Warm interpreters that fork: children of the launcher outside of cells.
    pub(crate) fn zygotes(&self) -> impl Iterator<Item = &Process> {
        self.all
            .values()
            .filter(|process| process.parent == self.launcher && !self.is_in_cell(process))
    }

    /// The processes that are neither interpreter nor cell.
    pub(crate) fn ours(&self) -> [(&'static str, u32); 3] {
        [("manager", self.manager), ("keeper", self.keeper), ("launcher", self.launcher)]
    }
}

/// Ready or running programs now: the children of the launcher alone are looked at, so that asking
/// often costs little.
pub(crate) fn count_workers(launcher: u32) -> Option<usize> {
    let depth = Process::read(launcher)?.numbers.len();
    let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).ok()?;
    let count = children
        .split_whitespace()
        .filter_map(|pid| Process::read(pid.parse().ok()?))
        .filter(|child| child.numbers.len() > depth && child.numbers.last() != Some(&1))
        .count();
    Some(count)
}

/// Open descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Mounts that a process sees.
pub(crate) fn mounts(pid: u32) -> Option<usize> {
    Some(fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?.lines().count())
}

/// Memory that is a process's alone, in kB: what would be free again if it ended.
pub(crate) fn private_kb(pid: u32) -> Option<u64> {
    private_of(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn private_of(rollup: &str) -> Option<u64> {
    let field = |name| rollup.lines().find_map(|line| kilobytes(line.strip_prefix(name)?.trim()));
    Some(field("Private_Clean:")? + field("Private_Dirty:")?)
}

/// The interpreter that a process is, and whether numpy is loaded.
pub(crate) fn kind(pid: u32) -> String {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let interpreter =
        ["python", "node"].into_iter().find(|known| name.starts_with(known)).unwrap_or(&name);
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let libraries = if maps.contains("/numpy/") { " with numpy" } else { "" };
    format!("{interpreter}{libraries}")
}

/// The arguments of a process, as they are.
pub(crate) fn command_line(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// Kernel memory of the whole machine, in kB: slab, stacks, page tables and per-processor memory.
pub(crate) fn kernel_kb() -> Option<u64> {
    Some(kernel_of(&fs::read_to_string("/proc/meminfo").ok()?))
}

fn kernel_of(meminfo: &str) -> u64 {
    let parts = ["Slab:", "KernelStack:", "PageTables:", "SecPageTables:", "Percpu:"];
    let part = |name: &&str| {
        meminfo.lines().find_map(|line| kilobytes(line.strip_prefix(*name)?.trim())).unwrap_or(0)
    };
    parts.iter().map(part).sum()
}

/// Directories of control groups that belong to the service of this keeper, in all hierarchies.
pub(crate) fn groups(keeper: u32) -> usize {
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = format!("ampoule-{keeper}-");
    group_mounts(&mounted).iter().map(|root| directories(root, &own, false)).sum()
}

fn group_mounts(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let is_group = matches!(right.split(' ').next()?, "cgroup" | "cgroup2");
            is_group.then(|| left.split(' ').nth(4).map(PathBuf::from))?
        })
        .collect()
}

fn directories(path: &Path, own: &str, inside: bool) -> usize {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            let inside = inside || entry.file_name().to_string_lossy().starts_with(own);
            usize::from(inside) + directories(&entry.path(), own, inside)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, numbers: &str) -> (u32, Process) {
        let status = format!(
            "Name:\tpython3\nState:\tS (sleeping)\nPPid:\t{parent}\nNSpid:\t{numbers}\n\
             VmRSS:\t    8832 kB\n"
        );
        (pid, Process::parse(pid, &status).unwrap())
    }

    #[test]
    fn a_tree_tells_workers_cells_and_zygotes_apart() {
        let everybody = BTreeMap::from([
            process(7, 1, "7"),
            process(10, 7, "10"),
            process(11, 10, "11"),
            process(12, 11, "12 1"),
            process(13, 12, "13 2"),
            process(14, 12, "14 3 1"),
            process(15, 12, "15 4 2"),
            process(16, 15, "16 5 3"),
            process(99, 1, "99"),
        ]);
        let tree = Tree::of(10, everybody).unwrap();
        assert_eq!((tree.keeper, tree.launcher), (11, 12));
        assert_eq!(tree.all.len(), 7);
        let pids = |each: Vec<&Process>| each.iter().map(|process| process.pid).collect::<Vec<_>>();
        assert_eq!(pids(tree.zygotes().collect()), [13]);
        assert_eq!(pids(tree.cells().collect()), [14]);
        assert_eq!(pids(tree.workers().collect()), [15, 16]);
        assert_eq!(tree.all[&15].resident_kb, 8832);
    }

    #[test]
    fn what_has_ended_is_no_process() {
        assert_eq!(Process::parse(5, "Name:\tx\nState:\tZ (zombie)\nPPid:\t1\nNSpid:\t5\n"), None);
    }

    #[test]
    fn private_memory_is_clean_and_dirty() {
        let rollup = "00400000-7fff rollup\nRss:  8832 kB\nShared_Clean:  7000 kB\n\
                      Private_Clean:  12 kB\nPrivate_Dirty:   620 kB\n";
        assert_eq!(private_of(rollup), Some(632));
        assert_eq!(private_of("Rss: 1 kB\n"), None);
    }

    #[test]
    fn kernel_memory_is_the_sum_of_its_parts() {
        let meminfo = "MemTotal: 1000 kB\nSlab: 200 kB\nSReclaimable: 150 kB\nKernelStack: 30 kB\n\
                       PageTables: 4 kB\nPercpu: 5 kB\n";
        assert_eq!(kernel_of(meminfo), 239);
    }

    #[test]
    fn group_hierarchies_are_found_among_the_mounts() {
        let mounted = "24 1 0:5 / /proc rw - proc proc rw\n\
                       30 24 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                       31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let expected = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"];
        assert_eq!(group_mounts(mounted), expected.map(PathBuf::from));
    }
}
