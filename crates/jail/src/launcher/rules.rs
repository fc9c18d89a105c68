//! What a worker is allowed: resource limits, Landlock rules, the system call filter.

use crate::{
    confine::{PathRule, ResourceLimit},
    sys::Instruction,
};

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
#[cfg(test)]
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
#[cfg(test)]
const MAKE_BLOCK: u64 = 1 << 11;
const MAKE_SYM: u64 = 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;

const READ: u64 = EXECUTE | READ_FILE | READ_DIR;
/// Everything that scratch space needs; no devices.
const SCRATCH: u64 = READ
    | WRITE_FILE
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_DIR
    | MAKE_REG
    | MAKE_SOCK
    | MAKE_FIFO
    | MAKE_SYM
    | REFER
    | TRUNCATE;
const DEVICE: u64 = READ_FILE | WRITE_FILE;

/// The rules that are the same for every worker.
#[derive(Debug)]
pub(super) struct Rules {
    /// The version of Landlock found at start.
    pub(super) landlock_abi: u32,
    /// The hard limits that we live under ourselves: nobody beneath can have more.
    pub(super) hard_limits: HardLimits,
    /// The compiled policy.
    pub(super) filter: Vec<Instruction>,
}

impl Rules {
    /// The file system rights that this kernel can deny.
    pub(super) fn landlock_handled(&self) -> u64 {
        let known = match self.landlock_abi {
            0 | 1 => MAKE_SYM,
            2 => REFER,
            3 | 4 => TRUNCATE,
            _ => IOCTL_DEV,
        };
        (known << 1) - 1
    }

    /// Abstract sockets and signals stay in the cell. No rule for TCP: the empty network namespace
    /// is that fence, and a second one would hide the kernel's count of attempts.
    pub(super) fn landlock_scoped(&self) -> u64 {
        if self.landlock_abi >= 6 { 0b11 } else { 0 }
    }
}

/// What is allowed where. Rules name the cell's own mounts, so that a file reached through
/// another mount (a zygote's executable, say) is not covered.
pub(super) fn path_rules() -> [PathRule<'static>; 9] {
    let rule = |path, access| PathRule { path, access };
    [
        rule(c"/", READ),
        rule(c"/workspace", SCRATCH),
        rule(c"/tmp", SCRATCH),
        rule(c"/dev/shm", SCRATCH & !EXECUTE),
        rule(c"/dev/null", DEVICE),
        rule(c"/dev/zero", DEVICE),
        rule(c"/dev/full", DEVICE),
        rule(c"/dev/random", DEVICE),
        rule(c"/dev/urandom", DEVICE),
    ]
}

/// The hard limits of this process, by number.
pub(super) type HardLimits = [u64; 16];

/// Reads our own hard limits.
pub(super) fn hard_limits() -> HardLimits {
    use rustix::process::{Resource, getrlimit};
    let mut limits = [u64::MAX; 16];
    for (number, resource) in [
        (1, Resource::Fsize),
        (3, Resource::Stack),
        (6, Resource::Nproc),
        (7, Resource::Nofile),
        (8, Resource::Memlock),
        (10, Resource::Locks),
        (11, Resource::Sigpending),
    ] {
        limits[number] = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    }
    limits
}

/// Limits per process, beneath those of the control group, and never above our own: without the
/// capability the kernel refuses to raise one.
pub(super) fn resource_limits(processes: u32, disk: u64, hard: &HardLimits) -> [ResourceLimit; 11] {
    let limit = |resource: u32, value: u64| {
        let most = hard.get(resource as usize).copied().unwrap_or(u64::MAX);
        ResourceLimit { resource, value: value.min(most) }
    };
    [
        limit(1, disk),    // FSIZE
        limit(3, 8 << 20), // STACK
        limit(4, 0),       // CORE
        // NPROC, per id and user namespace: a little above the control group's limit, which
        // counts what it refuses.
        limit(6, u64::from(processes) + 32),
        limit(7, 512),      // NOFILE
        limit(8, 64 << 10), // MEMLOCK
        limit(10, 256),     // LOCKS
        limit(11, 256),     // SIGPENDING
        limit(12, 0),       // MSGQUEUE
        limit(13, 0),       // NICE
        limit(14, 0),       // RTPRIO
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_landlock_version_handles_what_it_knows() {
        let handled = |landlock_abi| {
            Rules { landlock_abi, hard_limits: [0; 16], filter: Vec::new() }.landlock_handled()
        };
        assert_eq!([1, 2, 3, 5, 7].map(handled), [0x1fff, 0x3fff, 0x7fff, 0xffff, 0xffff]);
        assert_eq!(handled(1) & MAKE_CHAR, MAKE_CHAR);
        assert_eq!(SCRATCH & (MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV), 0);
    }
}
