//! The system calls that only a zygote and its workers make.

use core::mem::size_of;

use super::sys::{
    Child, CloneArguments, Fault, Message, Sys, as_int, check, clone_by, fd, number::PRCTL, path, syscall,
};

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const GETPID: usize = 39;
    pub(super) const RECVMSG: usize = 47;
    pub(super) const FCNTL: usize = 72;
    pub(super) const CHDIR: usize = 80;
    pub(super) const UMASK: usize = 95;
    pub(super) const SETSID: usize = 112;
    pub(super) const SET_ROBUST_LIST: usize = 273;
    pub(super) const GET_ROBUST_LIST: usize = 274;
    pub(super) const STATX: usize = 332;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const GETPID: usize = 172;
    pub(super) const RECVMSG: usize = 212;
    pub(super) const FCNTL: usize = 25;
    pub(super) const CHDIR: usize = 49;
    pub(super) const UMASK: usize = 166;
    pub(super) const SETSID: usize = 157;
    pub(super) const SET_ROBUST_LIST: usize = 99;
    pub(super) const GET_ROBUST_LIST: usize = 100;
    pub(super) const STATX: usize = 291;
}

/// Forks a sibling: a child of our parent, with the C library's record of its id kept right.
///
/// # Safety
/// As for [`clone3`]; `tid` must be where the C library keeps the calling thread's id
/// ([`tid_address`]).
pub(crate) unsafe fn clone_sibling(tid: usize, into_cgroup: Option<i32>) -> Sys<Option<Child>> {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_PARENT: u64 = 0x8000;
    const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
    const CLONE_CHILD_SETTID: u64 = 0x100_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: i32 = -1;
    let mut arguments = CloneArguments {
        flags: CLONE_PIDFD | CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID,
        pidfd: &raw mut pidfd as u64,
        child_tid: tid as u64,
        ..CloneArguments::default()
    };
    if let Some(cgroup) = into_cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = fd(cgroup) as u64;
    }
    // SAFETY: as above; the caller vouches for `tid`.
    unsafe { clone_by(&arguments, &raw const pidfd) }
}

/// Where the C library keeps the calling thread's id, which the kernel clears at the thread's end.
pub(crate) fn tid_address() -> Sys<usize> {
    const PR_GET_TID_ADDRESS: usize = 40;
    let mut address = 0_usize;
    // SAFETY: the kernel writes one pointer, which `address` is a place for.
    check("prctl", unsafe {
        syscall(PRCTL, [PR_GET_TID_ADDRESS, &raw mut address as usize, 0, 0, 0, 0])
    })?;
    // SAFETY: the kernel wrote there behind the compiler's back; a volatile read sees it.
    let address = unsafe { core::ptr::read_volatile(&raw const address) };
    if address == 0 { Err(Fault { call: "find the thread's id", errno: 38 }) } else { Ok(address) }
}

/// The calling thread's list of robust locks: where, and the size of its head.
pub(crate) fn robust_list() -> Sys<[usize; 2]> {
    let mut found = [0_usize; 2];
    let base = found.as_mut_ptr() as usize;
    // SAFETY: the kernel writes one pointer and one size; both places lie in `found`.
    check("get_robust_list", unsafe {
        syscall(number::GET_ROBUST_LIST, [0, base, base + size_of::<usize>(), 0, 0, 0])
    })?;
    Ok(found)
}

/// Says the same of the calling thread, which a clone forgets.
pub(crate) fn set_robust_list(list: [usize; 2]) -> Sys<()> {
    // SAFETY: the C library registered this very list before the fork, and it is thread-local
    // memory that lives as long as the thread; it is only read when the thread ends.
    check("set_robust_list", unsafe {
        syscall(number::SET_ROBUST_LIST, [list[0], list[1], 0, 0, 0, 0])
    })
    .map(drop)
}

/// How many threads this process has, by the links of `/proc/self/task`.
pub(crate) fn threads() -> Sys<u32> {
    const AT_FDCWD: i32 = -100;
    const STATX_NLINK: usize = 4;
    // struct statx is 256 bytes; the links are the 32 bits at byte 16.
    let mut found = [0_u32; 64];
    // SAFETY: the path is NUL-terminated, and the kernel writes one statx, which `found` holds.
    check("statx", unsafe {
        let name = path(c"/proc/self/task");
        syscall(number::STATX, [fd(AT_FDCWD), name, 0, STATX_NLINK, found.as_mut_ptr() as usize, 0])
    })?;
    Ok(found[4].saturating_sub(2))
}

/// Our pid in our own pid namespace.
pub(crate) fn pid() -> i32 {
    // SAFETY: no pointers.
    as_int(unsafe { syscall(number::GETPID, [0; 6]) }.cast_unsigned())
}

/// Leaves the session.
pub(crate) fn leave_session() -> Sys<()> {
    // SAFETY: no pointers.
    check("setsid", unsafe { syscall(number::SETSID, [0; 6]) }).map(drop)
}

/// Sets which rights new files lack.
pub(crate) fn set_umask(mask: u32) {
    // SAFETY: no pointers; it cannot fail.
    unsafe { syscall(number::UMASK, [mask as usize, 0, 0, 0, 0, 0]) };
}

/// Changes the working directory.
pub(crate) fn change_directory(directory: &core::ffi::CStr) -> Sys<()> {
    // SAFETY: `directory` is NUL-terminated.
    check("chdir", unsafe { syscall(number::CHDIR, [path(directory), 0, 0, 0, 0, 0]) }).map(drop)
}

/// Copies a descriptor to the lowest free number from `least` on; an exec closes it.
pub(crate) fn copy_above(descriptor: i32, least: i32) -> Sys<i32> {
    const F_DUPFD_CLOEXEC: usize = 1030;
    // SAFETY: no pointers.
    check("fcntl", unsafe {
        syscall(number::FCNTL, [fd(descriptor), F_DUPFD_CLOEXEC, fd(least), 0, 0, 0])
    })
    .map(as_int)
}

/// Receives one datagram into `bytes`, and its descriptors, close-on-exec; how many bytes and how
/// many descriptors came. No bytes: the other end is gone.
pub(crate) fn receive(
    socket: i32,
    bytes: &mut [u8],
    descriptors: &mut [i32; MOST_RECEIVED],
) -> Sys<(usize, usize)> {
    #[repr(C)]
    struct Control {
        len: usize,
        level: i32,
        kind: i32,
        descriptors: [i32; MOST_RECEIVED],
    }
    const SCM_RIGHTS: i32 = 1;
    const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;
    const EINTR: i32 = 4;
    let mut control = Control { len: 0, level: 0, kind: 0, descriptors: [-1; MOST_RECEIVED] };
    let iov = [bytes.as_mut_ptr() as usize, bytes.len()];
    let received = loop {
        let mut message = Message::of(&iov, &raw mut control);
        // SAFETY: `message` is a whole msghdr whose pointers lead to `iov`, which leads to `bytes`,
        // and to `control`; the kernel writes no more than the lengths that it is given.
        let received = check("recvmsg", unsafe {
            syscall(
                number::RECVMSG,
                [fd(socket), &raw mut message as usize, MSG_CMSG_CLOEXEC, 0, 0, 0],
            )
        });
        match received {
            Err(Fault { errno: EINTR, .. }) => {}
            received => break received?,
        }
    };
    // SAFETY: the kernel wrote there behind the compiler's back; a volatile read sees it.
    let control = unsafe { core::ptr::read_volatile(&raw const control) };
    let count = match control.kind {
        SCM_RIGHTS => (control.len.saturating_sub(16) / size_of::<i32>()).min(MOST_RECEIVED),
        _ => 0,
    };
    *descriptors = control.descriptors;
    Ok((received, count))
}

/// The most descriptors that one datagram brings.
pub(crate) const MOST_RECEIVED: usize = 16;
