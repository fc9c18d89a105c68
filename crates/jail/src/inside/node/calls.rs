//! The system calls that only a warm Node.js needs: its descriptors, its threads, its memory.

use super::super::sys::{Fault, Sys, as_int, check, fd, ioctl, path, syscall};

mod number {
    pub(super) const RT_SIGACTION: usize = 13;
    pub(super) const PREAD64: usize = 17;
    pub(super) const MADVISE: usize = 28;
    pub(super) const NANOSLEEP: usize = 35;
    pub(super) const FCNTL: usize = 72;
    pub(super) const PRCTL: usize = 157;
    pub(super) const ARCH_PRCTL: usize = 158;
    pub(super) const GETTID: usize = 186;
    pub(super) const GETDENTS64: usize = 217;
    pub(super) const EPOLL_CTL: usize = 233;
    pub(super) const TGKILL: usize = 234;
    pub(super) const READLINKAT: usize = 267;
    pub(super) const EVENTFD2: usize = 290;
    pub(super) const EPOLL_CREATE1: usize = 291;
    pub(super) const DUP3: usize = 292;
    pub(super) const PIPE2: usize = 293;
    pub(super) const GETRANDOM: usize = 318;
}

/// The target of the symbolic link `name` in the directory `at`.
pub(super) fn read_link<'a>(
    at: i32,
    name: &core::ffi::CStr,
    target: &'a mut [u8],
) -> Sys<&'a [u8]> {
    // SAFETY: `name` is NUL-terminated, and the kernel writes at most `target.len()` bytes.
    let len = check("readlinkat", unsafe {
        syscall(
            number::READLINKAT,
            [fd(at), path(name), target.as_mut_ptr() as usize, target.len(), 0, 0],
        )
    })?;
    Ok(target.get(..len).unwrap_or(&[]))
}

/// The next entries of a directory as `struct linux_dirent64`: how many bytes of `entries` they
/// take, 0 at the end.
pub(super) fn directory_entries(directory: i32, entries: &mut [u64]) -> Sys<usize> {
    // SAFETY: the kernel writes at most the length of `entries`, whose alignment is that of the
    // structure; any bytes are valid in it.
    check("getdents64", unsafe {
        syscall(
            number::GETDENTS64,
            [fd(directory), entries.as_mut_ptr() as usize, size_of_val(entries), 0, 0, 0],
        )
    })
}

/// `fcntl(2)` for commands that take and give numbers only.
pub(super) fn fcntl(descriptor: i32, command: i32, argument: usize) -> Sys<i32> {
    // SAFETY: every command used in this crate (F_GETFL, F_GETFD) takes no pointer.
    check("fcntl", unsafe {
        syscall(number::FCNTL, [fd(descriptor), fd(command), argument, 0, 0, 0])
    })
    .map(as_int)
}

/// How many bytes a pipe holds.
pub(super) fn readable(pipe: i32) -> Sys<i32> {
    const FIONREAD: u32 = 0x541b;
    let mut count = 0_i32;
    // SAFETY: FIONREAD writes one int.
    unsafe { ioctl(pipe, FIONREAD, (&raw mut count).cast()) }?;
    Ok(count)
}

/// `dup3(2)` with close-on-exec.
pub(super) fn replace(from: i32, to: i32) -> Sys<()> {
    const O_CLOEXEC: usize = 0o2_000_000;
    // SAFETY: no pointers; what `to` was is given up, which is what callers are for.
    check("dup3", unsafe { syscall(number::DUP3, [fd(from), fd(to), O_CLOEXEC, 0, 0, 0]) })
        .map(drop)
}

/// `epoll_create1(2)`.
pub(super) fn epoll_create(flags: i32) -> Sys<i32> {
    // SAFETY: no pointers.
    check("epoll_create1", unsafe { syscall(number::EPOLL_CREATE1, [fd(flags), 0, 0, 0, 0, 0]) })
        .map(as_int)
}

/// Registers `target` with `epoll`.
pub(super) fn epoll_add(epoll: i32, target: i32, events: u32, data: u64) -> Sys<()> {
    // The kernel packs the structure on x86-64, and there alone.
    #[repr(C, packed)]
    struct Event {
        events: u32,
        data: u64,
    }
    const EPOLL_CTL_ADD: usize = 1;
    let event = Event { events, data };
    // SAFETY: `event` is a whole epoll_event and is only read.
    check("epoll_ctl", unsafe {
        syscall(
            number::EPOLL_CTL,
            [fd(epoll), EPOLL_CTL_ADD, fd(target), &raw const event as usize, 0, 0],
        )
    })
    .map(drop)
}

/// `eventfd2(2)`.
pub(super) fn eventfd(value: u32, flags: i32) -> Sys<i32> {
    // SAFETY: no pointers.
    check("eventfd2", unsafe { syscall(number::EVENTFD2, [value as usize, fd(flags), 0, 0, 0, 0]) })
        .map(as_int)
}

/// `pipe2(2)`: the end to read from, the end to write to.
pub(super) fn pipe(flags: i32) -> Sys<[i32; 2]> {
    let mut ends = [-1_i32; 2];
    // SAFETY: the kernel writes two ints to `ends`.
    check("pipe2", unsafe {
        syscall(number::PIPE2, [ends.as_mut_ptr() as usize, fd(flags), 0, 0, 0, 0])
    })?;
    Ok(ends)
}

/// `madvise(2)` for advice that changes no byte of this process's own memory.
pub(super) fn advise(start: usize, len: usize, advice: i32) -> Sys<()> {
    // SAFETY: callers pass MADV_DOFORK, which only changes what a later fork copies.
    check("madvise", unsafe { syscall(number::MADVISE, [start, len, fd(advice), 0, 0, 0]) })
        .map(drop)
}

/// Sleeps, or a little less.
pub(super) fn sleep_microseconds(count: u32) {
    let duration = [u64::from(count / 1_000_000), u64::from(count % 1_000_000) * 1000];
    // SAFETY: `duration` is a whole timespec and is only read; what is left is not asked for.
    unsafe { syscall(number::NANOSLEEP, [duration.as_ptr() as usize, 0, 0, 0, 0, 0]) };
}

/// The id of the calling thread.
pub(super) fn tid() -> i32 {
    // SAFETY: no pointers; cannot fail.
    as_int(unsafe { syscall(number::GETTID, [0; 6]) }.cast_unsigned())
}

/// Sends a signal to one thread of this process.
pub(super) fn signal_thread(process: i32, thread: i32, signal: i32) -> Sys<()> {
    // SAFETY: no pointers.
    check("tgkill", unsafe {
        syscall(number::TGKILL, [fd(process), fd(thread), fd(signal), 0, 0, 0])
    })
    .map(drop)
}

/// `struct sigaction` of the kernel: handler, flags, restorer, mask.
pub(super) type SignalAction = [usize; 4];

/// Sets what a signal does, and gives what it did.
///
/// # Safety
/// A handler in `action` must be fit to run in any thread at any time, and its restorer must do
/// `rt_sigreturn`.
pub(super) unsafe fn signal_action(signal: i32, action: &SignalAction) -> Sys<SignalAction> {
    let mut before = SignalAction::default();
    // SAFETY: both are whole kernel_sigactions with an 8-byte mask; the caller vouches for the
    // handler.
    check("rt_sigaction", unsafe {
        syscall(
            number::RT_SIGACTION,
            [fd(signal), action.as_ptr() as usize, before.as_mut_ptr() as usize, 8, 0, 0],
        )
    })?;
    Ok(before)
}

/// The name of the calling thread.
pub(super) fn thread_name() -> Sys<[u8; 16]> {
    const PR_GET_NAME: usize = 16;
    let mut name = [0_u8; 16];
    // SAFETY: this option writes at most 16 bytes.
    check("prctl(PR_GET_NAME)", unsafe {
        syscall(number::PRCTL, [PR_GET_NAME, name.as_mut_ptr() as usize, 0, 0, 0, 0])
    })?;
    Ok(name)
}

/// Names the calling thread.
pub(super) fn name_thread(name: &[u8; 16]) -> Sys<()> {
    const PR_SET_NAME: usize = 15;
    // SAFETY: this option reads at most 16 bytes.
    check("prctl(PR_SET_NAME)", unsafe {
        syscall(number::PRCTL, [PR_SET_NAME, name.as_ptr() as usize, 0, 0, 0, 0])
    })
    .map(drop)
}

/// The calling thread's base of thread-local storage.
pub(super) fn thread_pointer() -> Sys<usize> {
    const ARCH_GET_FS: usize = 0x1003;
    let mut base = 0_usize;
    // SAFETY: this code writes one word.
    check("arch_prctl", unsafe {
        syscall(number::ARCH_PRCTL, [ARCH_GET_FS, &raw mut base as usize, 0, 0, 0, 0])
    })?;
    Ok(base)
}

/// Random bits of the kernel's.
pub(super) fn random() -> Sys<u64> {
    let mut bits = 0_u64;
    // SAFETY: the kernel writes at most eight bytes to `bits`.
    let len = check("getrandom", unsafe {
        syscall(number::GETRANDOM, [&raw mut bits as usize, size_of::<u64>(), 0, 0, 0, 0])
    })?;
    // A request of this size is never cut short.
    if len == size_of::<u64>() { Ok(bits) } else { Err(Fault { call: "getrandom", errno: 5 }) }
}

/// `pread64(2)` of whole words: how many bytes were read.
pub(super) fn read_at(file: i32, words: &mut [u64], at: usize) -> Sys<usize> {
    // SAFETY: the kernel writes at most the length of `words`, in which any bytes are valid.
    check("pread64", unsafe {
        syscall(
            number::PREAD64,
            [fd(file), words.as_mut_ptr() as usize, size_of_val(words), at, 0, 0],
        )
    })
}
