//! What a worker is allowed: paths, and resources per process. The same for cold and warm workers.

use super::confine::{PathRule, ResourceLimit};

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REMOVE_DIR: u64 = 1 << 4;
const REMOVE_FILE: u64 = 1 << 5;
const MAKE_DIR: u64 = 1 << 7;
const MAKE_REG: u64 = 1 << 8;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
pub(crate) const MAKE_SYM: u64 = 1 << 12;
pub(crate) const REFER: u64 = 1 << 13;
pub(crate) const TRUNCATE: u64 = 1 << 14;
pub(crate) const IOCTL_DEV: u64 = 1 << 15;

const READ: u64 = EXECUTE | READ_FILE | READ_DIR;
/// Everything that scratch space needs; no devices.
pub(crate) const SCRATCH: u64 = READ
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

/// What is allowed where. Rules name the cell's own mounts, so that a file reached through
/// another mount (a zygote's executable, say) is not covered.
pub(crate) fn path_rules() -> [PathRule<'static>; 9] {
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

/// The hard limits of a process, by number.
pub(crate) type HardLimits = [u64; 16];

/// Limits per process, beneath those of the control group, and never above our own: without the
/// capability the kernel refuses to raise one.
pub(crate) fn resource_limits(processes: u32, disk: u64, hard: &HardLimits) -> [ResourceLimit; 11] {
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
