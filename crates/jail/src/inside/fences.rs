//! The system calls by which a process fences itself in: Landlock and seccomp.

use super::sys::{Fault, Sys, as_int, check, fd, number::SECCOMP, syscall};

const LANDLOCK_CREATE_RULESET: usize = 444;
const LANDLOCK_ADD_RULE: usize = 445;
const LANDLOCK_RESTRICT_SELF: usize = 446;

/// The newest Landlock that the kernel offers; an error if it has none.
pub(crate) fn landlock_abi() -> Sys<u32> {
    // SAFETY: the version is asked for with a null pointer and a size of zero.
    check("landlock_create_ruleset", unsafe {
        syscall(LANDLOCK_CREATE_RULESET, [0, 0, 1, 0, 0, 0])
    })
    .map(|abi| as_int(abi).cast_unsigned())
}

/// Creates a Landlock ruleset that handles these rights and scopes (and no network right).
pub(crate) fn landlock_create(handled_fs: u64, scoped: u64, abi: u32) -> Sys<i32> {
    let attributes = [handled_fs, 0, scoped];
    // Older kernels know a shorter structure and refuse a longer one whose tail is not zero.
    let size = if abi >= 6 { 24 } else { 8 };
    // SAFETY: the kernel reads `size` bytes of `attributes`, which holds 24.
    check("landlock_create_ruleset", unsafe {
        syscall(LANDLOCK_CREATE_RULESET, [attributes.as_ptr() as usize, size, 0, 0, 0, 0])
    })
    .map(as_int)
}

/// Allows `access` beneath the directory (or on the file) behind `parent`.
pub(crate) fn landlock_allow(ruleset: i32, parent: i32, access: u64) -> Sys<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        access: u64,
        parent: i32,
    }
    const RULE_PATH_BENEATH: usize = 1;
    let rule = PathBeneath { access, parent };
    // SAFETY: `rule` is a whole landlock_path_beneath_attr and is only read.
    check("landlock_add_rule", unsafe {
        syscall(
            LANDLOCK_ADD_RULE,
            [fd(ruleset), RULE_PATH_BENEATH, &raw const rule as usize, 0, 0, 0],
        )
    })
    .map(drop)
}

/// Puts the calling thread under a ruleset, for good.
pub(crate) fn landlock_restrict(ruleset: i32) -> Sys<()> {
    // SAFETY: no pointers.
    check("landlock_restrict_self", unsafe {
        syscall(LANDLOCK_RESTRICT_SELF, [fd(ruleset), 0, 0, 0, 0, 0])
    })
    .map(drop)
}

/// One instruction of classic BPF, `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// Instructions to skip if a comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Installs a seccomp filter and returns the descriptor of its notifications.
pub(crate) fn seccomp_with_listener(filter: &[Instruction]) -> Sys<i32> {
    const NEW_LISTENER: usize = 1 << 3;
    seccomp(filter, NEW_LISTENER)
}

/// Installs a seccomp filter that notifies nobody.
pub(crate) fn seccomp_alone(filter: &[Instruction]) -> Sys<()> {
    seccomp(filter, 0).map(drop)
}

fn seccomp(filter: &[Instruction], flags: usize) -> Sys<i32> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    const SET_MODE_FILTER: usize = 1;
    let Ok(len) = u16::try_from(filter.len()) else {
        return Err(Fault { call: "seccomp", errno: 22 });
    };
    let program = Program { len, filter: filter.as_ptr() };
    // SAFETY: `program` is a whole sock_fprog that points at `len` instructions; all only read.
    check("seccomp", unsafe {
        syscall(SECCOMP, [SET_MODE_FILTER, flags, &raw const program as usize, 0, 0, 0])
    })
    .map(as_int)
}
