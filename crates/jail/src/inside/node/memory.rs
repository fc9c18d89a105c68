//! The interpreter's memory over a fork.

use super::{
    super::{
        lines,
        sys::{Fault, Sys},
    },
    calls,
};

const MADV_DOFORK: i32 = 11;
const PAGE: usize = 4096;
/// The end of the lower half: user space with four levels of page tables.
const USER_END: usize = (1 << 47) - PAGE;
const EINVAL: i32 = 22;
const ENOMEM: i32 = 12;

/// Has a fork copy all of this process's memory, whatever V8 has said (MADV_DONTFORK).
///
/// One call walks every mapping: holes between them are passed over (ENOMEM), and the walk stops
/// with EINVAL at the first mapping of a device, which is the kernel's own data page, above the
/// stack and so above everything of the interpreter's. Cheap enough for each fork; [`check`] sees
/// that the order of mappings is as told here.
pub(super) fn fork_all() -> Sys<()> {
    match calls::advise(PAGE, USER_END - PAGE, MADV_DOFORK) {
        Ok(()) | Err(Fault { errno: EINVAL | ENOMEM, .. }) => Ok(()),
        Err(fault) => Err(fault),
    }
}

/// Refuses memory that a child would miss, or share with the zygote and be able to write.
pub(super) fn check() -> Sys<()> {
    lines::each(c"/proc/self/smaps", &mut |line| {
        let Some(flags) = line.strip_prefix(b"VmFlags:") else { return Ok(()) };
        let has = |flag: &[u8; 2]| flags.split(|byte| *byte == b' ').any(|one| one == flag);
        // The kernel's own pages are mapped afresh, or the same for all.
        if has(b"io") || has(b"pf") {
            Ok(())
        } else if has(b"dc") {
            Err(Fault { call: "memory that a fork leaves out", errno: 1 })
        } else if has(b"sh") && has(b"mw") && has(b"wr") {
            Err(Fault { call: "memory that a fork would share", errno: 1 })
        } else {
            Ok(())
        }
    })
}
