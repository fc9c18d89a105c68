//! The rules that every worker is confined by, as this machine can hold them.

use crate::{
    allowed::{HardLimits, IOCTL_DEV, MAKE_SYM, REFER, TRUNCATE},
    fences::Instruction,
};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowed::SCRATCH;

    #[test]
    fn each_landlock_version_handles_what_it_knows() {
        let handled = |landlock_abi| {
            Rules { landlock_abi, hard_limits: [0; 16], filter: Vec::new() }.landlock_handled()
        };
        assert_eq!([1, 2, 3, 5, 7].map(handled), [0x1fff, 0x3fff, 0x7fff, 0xffff, 0xffff]);
        const MAKE_CHAR: u64 = 1 << 6;
        const MAKE_BLOCK: u64 = 1 << 11;
        assert_eq!(handled(1) & MAKE_CHAR, MAKE_CHAR);
        assert_eq!(SCRATCH & (MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV), 0);
    }
}
