//! Raw system calls: the only place that speaks to the kernel without a library.
//!
//! Shared by the launcher's processes and by the code that is loaded into an interpreter, so it
//! needs neither std nor libc. Every function names its call in its error.

use core::arch::asm;

/// A system call that the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Fault {
    /// The call, and where it matters its object.
    pub(crate) call: &'static str,
    /// The kernel's error number.
    pub(crate) errno: i32,
}

/// `Result` with the call that failed.
pub(crate) type Sys<T> = Result<T, Fault>;

#[cfg(target_arch = "x86_64")]
pub(crate) mod number {
    pub(super) const WRITE: usize = 1;
    pub(super) const CLOSE: usize = 3;
    pub(super) const RT_SIGACTION: usize = 13;
    pub(super) const RT_SIGPROCMASK: usize = 14;
    pub(super) const IOCTL: usize = 16;
    pub(super) const SENDMSG: usize = 46;
    pub(super) const EXECVE: usize = 59;
    pub(super) const SETGROUPS: usize = 116;
    pub(super) const SETRESUID: usize = 117;
    pub(super) const GETRESUID: usize = 118;
    pub(super) const SETRESGID: usize = 119;
    pub(super) const CAPGET: usize = 125;
    pub(super) const CAPSET: usize = 126;
    pub(crate) const PRCTL: usize = 157;
    pub(super) const EXIT_GROUP: usize = 231;
    pub(super) const OPENAT: usize = 257;
    pub(super) const DUP3: usize = 292;
    pub(super) const PRLIMIT64: usize = 302;
    pub(super) const SETNS: usize = 308;
    pub(super) const KCMP: usize = 312;
    pub(crate) const SECCOMP: usize = 317;
}

#[cfg(target_arch = "aarch64")]
pub(crate) mod number {
    pub(super) const WRITE: usize = 64;
    pub(super) const CLOSE: usize = 57;
    pub(super) const RT_SIGACTION: usize = 134;
    pub(super) const RT_SIGPROCMASK: usize = 135;
    pub(super) const IOCTL: usize = 29;
    pub(super) const SENDMSG: usize = 211;
    pub(super) const EXECVE: usize = 221;
    pub(super) const SETGROUPS: usize = 159;
    pub(super) const SETRESUID: usize = 147;
    pub(super) const GETRESUID: usize = 148;
    pub(super) const SETRESGID: usize = 149;
    pub(super) const CAPGET: usize = 90;
    pub(super) const CAPSET: usize = 91;
    pub(crate) const PRCTL: usize = 167;
    pub(super) const EXIT_GROUP: usize = 94;
    pub(super) const OPENAT: usize = 56;
    pub(super) const DUP3: usize = 24;
    pub(super) const PRLIMIT64: usize = 261;
    pub(super) const SETNS: usize = 268;
    pub(super) const KCMP: usize = 272;
    pub(crate) const SECCOMP: usize = 277;
}

// These numbers are the same on every architecture.
const CLONE3: usize = 435;
const CLOSE_RANGE: usize = 436;
const MOUNT_SETATTR: usize = 442;

/// Makes a system call and returns what the kernel left in the result register.
///
/// # Safety
/// The arguments must be what the kernel expects of call `nr`: every pointer among them valid for
/// the access that the call makes, for as long as the call lasts.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn syscall(nr: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the `syscall` instruction clobbers rcx and r11 only, which are declared; memory is
    // read and written as the caller has vouched for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr.cast_signed() => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// See the other architecture's twin.
///
/// # Safety
/// As there.
#[cfg(target_arch = "aarch64")]
pub(crate) unsafe fn syscall(nr: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: `svc 0` changes x0 only; memory is read and written as the caller has vouched for.
    unsafe {
        asm!(
            "svc 0",
            in("x8") nr,
            inlateout("x0") a[0].cast_signed() => result,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            options(nostack),
        );
    }
    result
}

/// What a call returned, or its error.
pub(crate) fn check(call: &'static str, result: isize) -> Sys<usize> {
    if (-4095..0).contains(&result) {
        #[expect(clippy::cast_possible_truncation, reason = "an errno is below 4096")]
        return Err(Fault { call, errno: -result as i32 });
    }
    Ok(result.cast_unsigned())
}

/// A descriptor as an argument.
pub(crate) fn fd(raw: i32) -> usize {
    // The kernel reads descriptors as `int`; sign extension keeps AT_FDCWD what it is.
    (raw as isize).cast_unsigned()
}

/// A number of the kernel's as an int.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the kernel returns an int here"
)]
pub(crate) fn as_int(value: usize) -> i32 {
    value as i32
}

/// A NUL-terminated string for the kernel.
pub(crate) fn path(text: &core::ffi::CStr) -> usize {
    text.as_ptr() as usize
}

/// `write(2)`.
pub(crate) fn write(descriptor: i32, bytes: &[u8]) -> Sys<usize> {
    // SAFETY: the kernel reads at most `bytes.len()` bytes from `bytes`.
    check("write", unsafe {
        syscall(number::WRITE, [fd(descriptor), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0])
    })
}

/// `close(2)` of a descriptor that nobody else in this process believes to own.
pub(crate) fn close(descriptor: i32) -> Sys<()> {
    // SAFETY: no pointers. Callers close only what they opened, before an exec or an exit.
    check("close", unsafe { syscall(number::CLOSE, [fd(descriptor), 0, 0, 0, 0, 0]) }).map(drop)
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_range_from(first: u32) -> Sys<()> {
    close_range(first, u32::MAX)
}

/// Closes every descriptor from `first` to `last`.
pub(crate) fn close_range(first: u32, last: u32) -> Sys<()> {
    // SAFETY: no pointers. Used only in a child that will exec, or in a worker before user code:
    // no owner of the closed descriptors ever runs again in this process.
    check("close_range", unsafe {
        syscall(CLOSE_RANGE, [first as usize, last as usize, 0, 0, 0, 0])
    })
    .map(drop)
}

/// Has an exec close every descriptor from `first` on, whoever opened it.
pub(crate) fn close_on_exec_from(first: u32) -> Sys<()> {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    // SAFETY: no pointers, and nothing is closed as long as this program goes on.
    check("close_range", unsafe {
        syscall(CLOSE_RANGE, [first as usize, u32::MAX as usize, CLOSE_RANGE_CLOEXEC, 0, 0, 0])
    })
    .map(drop)
}

/// `dup3(2)` without flags: `to` then survives an exec.
pub(crate) fn dup_to(from: i32, to: i32) -> Sys<()> {
    // SAFETY: no pointers; whatever `to` was is replaced, which is the caller's intent in a child
    // that lays out its descriptors before an exec.
    check("dup3", unsafe { syscall(number::DUP3, [fd(from), fd(to), 0, 0, 0, 0]) }).map(drop)
}

/// `openat(2)` relative to the working directory.
pub(crate) fn open(name: &core::ffi::CStr, flags: i32) -> Sys<i32> {
    const AT_FDCWD: i32 = -100;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    check("openat", unsafe {
        syscall(number::OPENAT, [fd(AT_FDCWD), path(name), fd(flags), 0, 0, 0])
    })
    .map(as_int)
}

/// `execve(2)`. Returns only on failure.
///
/// # Safety
/// `argv` and `envp` must each be a NULL-terminated array of pointers to NUL-terminated strings
/// that live until the call returns.
pub(crate) unsafe fn execve(
    program: &core::ffi::CStr,
    argv: *const *const u8,
    envp: *const *const u8,
) -> Fault {
    // SAFETY: the caller vouches for the arrays; `program` is NUL-terminated.
    match check("execve", unsafe {
        syscall(number::EXECVE, [path(program), argv as usize, envp as usize, 0, 0, 0])
    }) {
        Err(fault) => fault,
        Ok(_) => Fault { call: "execve", errno: 0 },
    }
}

/// Lets go of all memory beneath the stack's end and waits to be killed: what the process holds no
/// longer, nobody waits for when it is. Signals without a handler do not end a pid 1.
#[cfg(target_arch = "x86_64")]
pub(crate) fn wait_without_memory() -> ! {
    // SAFETY: madvise(MADV_DONTNEED) of everything up to the stack pointer. What is private is gone
    // afterwards and what is a file's is read again when it is needed, which is this code alone: it
    // uses registers only, and never returns. Where a mapping refuses, those behind it stay.
    unsafe {
        asm!(
            "mov rsi, rsp",
            "and rsi, -4096",
            "sub rsi, rdi",
            "syscall",
            "2:",
            "mov eax, 34",
            "syscall",
            "jmp 2b",
            in("rax") 28_usize, in("rdi") 0x1_0000_usize, in("rdx") 4_usize,
            options(noreturn),
        );
    }
}

/// See the other architecture's twin.
#[cfg(target_arch = "aarch64")]
pub(crate) fn wait_without_memory() -> ! {
    // SAFETY: as there. It waits in ppoll of nothing, for ever.
    unsafe {
        asm!(
            "mov x1, sp",
            "and x1, x1, #~0xffff",
            "sub x1, x1, x0",
            "svc 0",
            "2:",
            "mov x8, #73",
            "mov x0, #0",
            "mov x1, #0",
            "mov x2, #0",
            "mov x3, #0",
            "svc 0",
            "b 2b",
            in("x8") 233_usize, in("x0") 0x1_0000_usize, in("x2") 4_usize,
            options(noreturn),
        );
    }
}

/// Leaves the process at once.
pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: no pointers; does not return.
        unsafe { syscall(number::EXIT_GROUP, [fd(code), 0, 0, 0, 0, 0]) };
    }
}

/// `ioctl(2)` with a pointer to a structure of the kernel's.
///
/// # Safety
/// `argument` must point to the structure that `request` reads and writes, unaliased.
pub(crate) unsafe fn ioctl(
    descriptor: i32,
    request: u32,
    argument: *mut core::ffi::c_void,
) -> Sys<usize> {
    // SAFETY: the caller vouches for `argument`.
    check("ioctl", unsafe {
        syscall(number::IOCTL, [fd(descriptor), request as usize, argument as usize, 0, 0, 0])
    })
}

/// `prctl(2)` for options that take numbers only.
pub(crate) fn prctl(option: i32, a: usize, b: usize) -> Sys<usize> {
    // SAFETY: every option used in this crate takes numbers; none takes a pointer.
    check("prctl", unsafe { syscall(number::PRCTL, [fd(option), a, b, 0, 0, 0]) })
}

/// Empties the supplementary groups.
pub(crate) fn clear_groups() -> Sys<()> {
    // SAFETY: a count of zero means that the kernel reads no list.
    check("setgroups", unsafe { syscall(number::SETGROUPS, [0, 0, 0, 0, 0, 0]) }).map(drop)
}

/// Sets real, effective and saved group id of the calling thread.
pub(crate) fn set_gid(gid: u32) -> Sys<()> {
    let id = gid as usize;
    // SAFETY: no pointers.
    check("setresgid", unsafe { syscall(number::SETRESGID, [id, id, id, 0, 0, 0]) }).map(drop)
}

/// Sets real, effective and saved user id of the calling thread.
pub(crate) fn set_uid(uid: u32) -> Sys<()> {
    let id = uid as usize;
    // SAFETY: no pointers.
    check("setresuid", unsafe { syscall(number::SETRESUID, [id, id, id, 0, 0, 0]) }).map(drop)
}

/// Real, effective and saved user id.
pub(crate) fn uids() -> Sys<[u32; 3]> {
    let mut ids = [0_u32; 3];
    let base = ids.as_mut_ptr() as usize;
    // SAFETY: the kernel writes one u32 to each pointer; all three lie in `ids`.
    check("getresuid", unsafe { syscall(number::GETRESUID, [base, base + 4, base + 8, 0, 0, 0]) })?;
    Ok(ids)
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Takes every Linux capability from the calling thread: effective, permitted, inheritable.
pub(crate) fn drop_linux_caps() -> Sys<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let sets = [0_u32; 6];
    // SAFETY: version 3 means two sets of three u32, which `sets` holds; both are only read.
    check("capset", unsafe {
        syscall(number::CAPSET, [&raw const header as usize, sets.as_ptr() as usize, 0, 0, 0, 0])
    })
    .map(drop)
}

/// Makes every Linux capability that the calling thread holds survive an exec.
pub(crate) fn hand_linux_caps_on() -> Sys<()> {
    const PR_CAP_AMBIENT: i32 = 47;
    const PR_CAP_AMBIENT_RAISE: usize = 2;
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    // Two sets of effective, permitted, inheritable.
    let mut sets = [0_u32; 6];
    // SAFETY: version 3 means two sets of three u32, which the kernel writes to `sets`.
    check("capget", unsafe {
        syscall(
            number::CAPGET,
            [&raw const header as usize, sets.as_mut_ptr() as usize, 0, 0, 0, 0],
        )
    })?;
    (sets[2], sets[5]) = (sets[1], sets[4]);
    // SAFETY: as above, and the sets are only read.
    check("capset", unsafe {
        syscall(number::CAPSET, [&raw const header as usize, sets.as_ptr() as usize, 0, 0, 0, 0])
    })?;
    for capability in 0..64 {
        // One that is not held cannot be handed on.
        let _ = prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability);
    }
    Ok(())
}

/// Whether the calling thread holds no Linux capability at all.
pub(crate) fn has_no_linux_caps() -> Sys<bool> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = [u32::MAX; 6];
    // SAFETY: version 3 means two sets of three u32, which the kernel writes to `sets`.
    check("capget", unsafe {
        syscall(
            number::CAPGET,
            [&raw const header as usize, sets.as_mut_ptr() as usize, 0, 0, 0, 0],
        )
    })?;
    Ok(sets == [0; 6])
}

/// Sets soft and hard limit of a resource of this process.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Sys<()> {
    let limit = [soft, hard];
    // SAFETY: the kernel reads two u64 from `limit`; the old value is not asked for.
    check("prlimit64", unsafe {
        syscall(number::PRLIMIT64, [0, resource as usize, limit.as_ptr() as usize, 0, 0, 0])
    })
    .map(drop)
}

/// Joins the namespaces `flags` of the process behind a pidfd (or the one behind a namespace fd).
pub(crate) fn setns(descriptor: i32, flags: i32) -> Sys<()> {
    // SAFETY: no pointers. The caller is single-threaded, which the kernel checks for users.
    check("setns", unsafe { syscall(number::SETNS, [fd(descriptor), fd(flags), 0, 0, 0, 0]) })
        .map(drop)
}

/// Whether two processes, by their pids here, have all of their memory in common.
pub(crate) fn same_memory(one: u32, other: u32) -> Sys<bool> {
    const KCMP_VM: usize = 1;
    // SAFETY: no pointers.
    let ordered = check("kcmp", unsafe {
        syscall(number::KCMP, [one as usize, other as usize, KCMP_VM, 0, 0, 0])
    })?;
    Ok(ordered == 0)
}

/// Sets every signal to its default and unblocks them all.
pub(crate) fn reset_signals() -> Sys<()> {
    const SIG_SETMASK: usize = 2;
    // struct kernel_sigaction { handler, flags, restorer, mask }: all zero is SIG_DFL.
    let default = [0_u64; 4];
    for signal in 1..=64_usize {
        if signal == 9 || signal == 19 {
            continue;
        }
        // SAFETY: `default` is a whole kernel_sigaction and is only read; no handler is installed.
        check("rt_sigaction", unsafe {
            syscall(number::RT_SIGACTION, [signal, default.as_ptr() as usize, 0, 8, 0, 0])
        })?;
    }
    let none = 0_u64;
    // SAFETY: the kernel reads one 8-byte mask.
    check("rt_sigprocmask", unsafe {
        syscall(number::RT_SIGPROCMASK, [SIG_SETMASK, &raw const none as usize, 0, 8, 0, 0])
    })
    .map(drop)
}

/// Ignores one signal.
pub(crate) fn ignore_signal(signal: i32) -> Sys<()> {
    const SIG_IGN: u64 = 1;
    let ignore = [SIG_IGN, 0, 0, 0];
    // SAFETY: `ignore` is a whole kernel_sigaction and is only read; no handler is installed.
    check("rt_sigaction", unsafe {
        syscall(number::RT_SIGACTION, [fd(signal), ignore.as_ptr() as usize, 0, 8, 0, 0])
    })
    .map(drop)
}

/// `struct clone_args` of the kernel, version 2 (with the cgroup).
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct CloneArguments {
    /// CLONE_… flags.
    pub(crate) flags: u64,
    /// Where the kernel puts the pidfd.
    pub(crate) pidfd: u64,
    /// Where the child's id is kept, if asked for.
    pub(crate) child_tid: u64,
    /// Unused here.
    pub(crate) parent_tid: u64,
    /// The signal at the child's end.
    pub(crate) exit_signal: u64,
    /// Unused: no new stack without CLONE_VM.
    pub(crate) stack: u64,
    /// Unused.
    pub(crate) stack_size: u64,
    /// Unused.
    pub(crate) tls: u64,
    /// Unused.
    pub(crate) set_tid: u64,
    /// Unused.
    pub(crate) set_tid_size: u64,
    /// The cgroup's descriptor for CLONE_INTO_CGROUP.
    pub(crate) cgroup: u64,
}

/// A child of [`clone3`], seen from its parent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    /// Its pid in the caller's pid namespace.
    pub(crate) pid: i32,
    /// A descriptor of it, close-on-exec.
    pub(crate) pidfd: i32,
}

/// `clone3(2)` as a fork: `None` in the child.
///
/// # Safety
/// The calling process must be single-threaded: the child goes on with a copy of its memory, and a
/// lock held by another thread would stay held for ever.
pub(crate) unsafe fn clone3(flags: u64, into_cgroup: Option<i32>) -> Sys<Option<Child>> {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    const SIGCHLD: u64 = 17;
    let mut pidfd: i32 = -1;
    let mut arguments = CloneArguments {
        flags: flags | CLONE_PIDFD,
        pidfd: &raw mut pidfd as u64,
        exit_signal: SIGCHLD,
        ..CloneArguments::default()
    };
    if let Some(cgroup) = into_cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = fd(cgroup) as u64;
    }
    // SAFETY: `pidfd` is a place for one int, and the caller vouches for a single thread.
    unsafe { clone_by(&arguments, &raw const pidfd) }
}

/// `clone3(2)` by its whole arguments: `None` in the child.
///
/// # Safety
/// `arguments.pidfd` must point to `pidfd`, a live int; no flag may share memory with the child; the
/// calling process must be single-threaded.
pub(crate) unsafe fn clone_by(arguments: &CloneArguments, pidfd: *const i32) -> Sys<Option<Child>> {
    // SAFETY: `arguments` is a whole clone_args, alive during the call. Without CLONE_VM the child
    // has its own copy of this stack, so both returns are sound; the caller vouches for the rest.
    let pid = check("clone3", unsafe {
        syscall(CLONE3, [&raw const *arguments as usize, size_of::<CloneArguments>(), 0, 0, 0, 0])
    })?;
    // SAFETY: the kernel wrote there behind the compiler's back; a volatile read sees it.
    let pidfd = unsafe { core::ptr::read_volatile(pidfd) };
    Ok((pid != 0).then_some(Child { pid: as_int(pid), pidfd }))
}

/// Adds mount attributes to a mount and everything under it.
pub(crate) fn mount_setattr_recursive(target: &core::ffi::CStr, add: u64) -> Sys<()> {
    const AT_FDCWD: i32 = -100;
    const AT_RECURSIVE: usize = 0x8000;
    // struct mount_attr { attr_set, attr_clr, propagation, userns_fd }
    let attributes = [add, 0, 0, 0];
    // SAFETY: `target` is NUL-terminated and `attributes` a whole mount_attr; both are only read.
    check("mount_setattr", unsafe {
        syscall(
            MOUNT_SETATTR,
            [fd(AT_FDCWD), path(target), AT_RECURSIVE, attributes.as_ptr() as usize, 32, 0],
        )
    })
    .map(drop)
}

/// `struct msghdr` of the kernel, with one piece of data and one control message.
#[repr(C)]
pub(crate) struct Message<Control> {
    name: usize,
    name_len: u32,
    iov: *const [usize; 2],
    iov_len: usize,
    control: *const Control,
    control_len: usize,
    flags: i32,
}

impl<Control> Message<Control> {
    /// One that leads to both, which have to live while it is used.
    pub(crate) fn of(iov: &[usize; 2], control: *const Control) -> Self {
        let control_len = size_of::<Control>();
        Self { name: 0, name_len: 0, iov, iov_len: 1, control, control_len, flags: 0 }
    }
}

/// Sends one byte and one descriptor over a unix socket.
pub(crate) fn send_descriptor(socket: i32, byte: u8, descriptor: i32) -> Sys<()> {
    #[repr(C)]
    struct Control {
        len: usize,
        level: i32,
        kind: i32,
        descriptor: i32,
        padding: i32,
    }
    const SOL_SOCKET: i32 = 1;
    const SCM_RIGHTS: i32 = 1;
    const MSG_NOSIGNAL: usize = 0x4000;
    let control = Control { len: 20, level: SOL_SOCKET, kind: SCM_RIGHTS, descriptor, padding: 0 };
    let iov = [&raw const byte as usize, 1];
    let message = Message::of(&iov, &raw const control);
    // SAFETY: `message` is a whole msghdr whose pointers lead to `iov` (one byte) and to a control
    // message of 20 bytes padded to 24; the kernel only reads them, during the call.
    check("sendmsg", unsafe {
        syscall(number::SENDMSG, [fd(socket), &raw const message as usize, MSG_NOSIGNAL, 0, 0, 0])
    })
    .map(drop)
}
