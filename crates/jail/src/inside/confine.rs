//! `confine()`: the one function that takes everything from a worker before it runs a program.
//!
//! The same source is used by the launcher's workers (cold: an exec follows) and by the code that
//! is loaded into a warm interpreter, so there is one order to review and no second way in. It
//! allocates nothing and calls nothing but the kernel.

use core::ffi::CStr;

use super::{
    fences::{self, Instruction},
    sys::{self, Fault, Sys},
};

/// A resource limit, soft and hard alike.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ResourceLimit {
    /// RLIMIT_….
    pub(crate) resource: u32,
    /// The value.
    pub(crate) value: u64,
}

/// What Landlock allows beneath a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathRule<'a> {
    /// A directory or file in the cell's own root.
    pub(crate) path: &'a CStr,
    /// LANDLOCK_ACCESS_FS_… bits.
    pub(crate) access: u64,
}

/// Everything that `confine` needs, laid out ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// The user and group id inside.
    pub(crate) id: u32,
    /// Whether the cell maps one id only, so that the kernel forbids setting groups.
    pub(crate) single_id: bool,
    /// Resource limits.
    pub(crate) limits: &'a [ResourceLimit],
    /// The Landlock version found at start, or 0 to go without.
    pub(crate) landlock_abi: u32,
    /// The rights that are denied unless a rule allows them.
    pub(crate) landlock_handled: u64,
    /// The scopes (abstract sockets, signals) that do not leave the cell.
    pub(crate) landlock_scoped: u64,
    /// What is allowed.
    pub(crate) landlock_rules: &'a [PathRule<'a>],
    /// The compiled system call policy.
    pub(crate) filter: &'a [Instruction],
    /// The socket that the listener is sent over; closed at the end.
    pub(crate) setup_socket: i32,
    /// The descriptors above it that stay, ascending: a forked interpreter's own, made afresh.
    pub(crate) kept: &'a [i32],
    /// Whether the process must be made readable to itself again, which a change of ids ends and an
    /// exec would restore: without it the program's own `/proc/self` is root's.
    pub(crate) dumpable: bool,
    /// What is left alone.
    pub(crate) spared: Spared,
}

/// A test switch: what `confine` leaves alone, so that a probe can be seen to get through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spared {
    /// Linux capabilities stay, and survive an exec.
    pub(crate) linux_caps: bool,
    /// no_new_privs is not set. Landlock and the filter then ask for a capability, which goes with
    /// the exec.
    pub(crate) no_new_privs: bool,
}

/// The byte that goes with the listener: everything was read back and holds.
pub(crate) const CONFINED: u8 = b'C';

const PR_SET_DUMPABLE: i32 = 4;
const PR_SET_NO_NEW_PRIVS: i32 = 38;
const PR_GET_NO_NEW_PRIVS: i32 = 39;
const PR_CAPBSET_READ: i32 = 23;
const PR_CAPBSET_DROP: i32 = 24;
const PR_GET_SECCOMP: i32 = 21;
const PR_SET_SECUREBITS: i32 = 28;
/// NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock: no id and no exec gives
/// Linux capabilities back.
const SECUREBITS: usize = 0b1110_1111;
const NO_SETUID_FIXUP: usize = 0b100;
const EINVAL: i32 = 22;
const EPERM: i32 = 1;
const O_PATH_CLOEXEC: i32 = 0o10_000_000 | 0o2_000_000;

/// Takes everything from the calling, single-threaded process. Descriptors 0 to 3 and the setup
/// socket must be where they belong, the cell's namespaces joined.
///
/// On success the process has been read back as confined, its listener is with the launcher, and
/// the next thing that happens may be hostile.
pub(crate) fn confine(plan: &Plan<'_>) -> Sys<()> {
    // 1. No descriptor of the launcher's survives.
    let mut next = plan.setup_socket.cast_unsigned() + 1;
    for kept in plan.kept {
        let kept = kept.cast_unsigned();
        if kept > next {
            sys::close_range(next, kept - 1)?;
        }
        next = next.max(kept + 1);
    }
    sys::close_range(next, u32::MAX)?;
    // 2. The bounding set, while CAP_SETPCAP is still there: after the ids it would silently stay.
    let spared = plan.spared;
    if spared.linux_caps {
        sys::prctl(PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0)?;
    } else {
        drop_bounding_set()?;
        sys::prctl(PR_SET_SECUREBITS, SECUREBITS, 0)?;
    }
    // 3. The ids.
    match sys::clear_groups() {
        Err(Fault { errno: EPERM, .. }) if plan.single_id => {}
        other => other?,
    }
    sys::set_gid(plan.id)?;
    sys::set_uid(plan.id)?;
    if plan.dumpable {
        sys::prctl(PR_SET_DUMPABLE, 1, 0)?;
    }
    // 4. Linux capabilities to zero, in every set.
    match spared {
        Spared { linux_caps: true, .. } => sys::hand_linux_caps_on()?,
        Spared { no_new_privs: true, .. } => {}
        _ => sys::drop_linux_caps()?,
    }
    // 5. Resource limits.
    for limit in plan.limits {
        sys::set_rlimit(limit.resource, limit.value, limit.value)?;
    }
    // 6. Nothing executed from here on gains a privilege.
    if !spared.no_new_privs {
        sys::prctl(PR_SET_NO_NEW_PRIVS, 1, 0)?;
    }
    // 7. Landlock, on the cell's own mounts only; version 0 is a kernel without it, and an operator
    // who gave it up.
    if plan.landlock_abi > 0 {
        restrict_paths(plan)?;
    }
    read_back(plan)?;
    // 8. The system call policy, last, because it forbids most of the above.
    let listener = fences::seccomp_with_listener(plan.filter)?;
    const FILTER_MODE: usize = 2;
    if sys::prctl(PR_GET_SECCOMP, 0, 0)? != FILTER_MODE {
        return Err(Fault { call: "read back of seccomp", errno: EPERM });
    }
    sys::send_descriptor(plan.setup_socket, CONFINED, listener)?;
    sys::close(listener)?;
    sys::close(plan.setup_socket)
}

fn drop_bounding_set() -> Sys<()> {
    for capability in 0..64 {
        match sys::prctl(PR_CAPBSET_DROP, capability, 0) {
            Ok(_) => {}
            Err(Fault { errno: EINVAL, .. }) => break,
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

fn restrict_paths(plan: &Plan<'_>) -> Sys<()> {
    let ruleset =
        fences::landlock_create(plan.landlock_handled, plan.landlock_scoped, plan.landlock_abi)?;
    for rule in plan.landlock_rules {
        let parent = sys::open(rule.path, O_PATH_CLOEXEC)?;
        fences::landlock_allow(ruleset, parent, rule.access & plan.landlock_handled)?;
        sys::close(parent)?;
    }
    fences::landlock_restrict(ruleset)?;
    sys::close(ruleset)
}

/// Asks the kernel what really holds. Asked is not enforced.
fn read_back(plan: &Plan<'_>) -> Sys<()> {
    let wrong = |call| Err(Fault { call, errno: EPERM });
    if sys::uids()? != [plan.id; 3] {
        return wrong("read back of ids");
    }
    let Spared { linux_caps, no_new_privs } = plan.spared;
    if !linux_caps && !no_new_privs && !sys::has_no_linux_caps()? {
        return wrong("read back of capabilities");
    }
    if !linux_caps
        && (sys::prctl(PR_CAPBSET_READ, 0, 0)? != 0 || sys::prctl(PR_CAPBSET_READ, 21, 0)? != 0)
    {
        return wrong("read back of the bounding set");
    }
    if !no_new_privs && sys::prctl(PR_GET_NO_NEW_PRIVS, 0, 0)? != 1 {
        return wrong("read back of no_new_privs");
    }
    Ok(())
}
