//! The janitor: closes what the launcher must not wait for.
//!
//! The last descriptor of a mount namespace takes its file systems along, and the kernel waits in
//! that call for grace periods, a dozen of them. So the launcher keeps a cell's namespace open until
//! the answer is out, and then has this process close it. It holds nothing else.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::thread::set_name;

use crate::{
    error::{Jail, Step},
    sys, wire,
};

/// The launcher's end.
#[derive(Debug)]
pub(super) struct Janitor {
    socket: OwnedFd,
    /// Tells of its end; nobody reaps it before the launcher's own.
    _pidfd: OwnedFd,
}

impl Janitor {
    /// Starts one, before there is anything that it must not hold.
    pub(super) fn start() -> Jail<Self> {
        let (ours, theirs) = wire::pair().step("make the janitor's socket")?;
        // SAFETY: the launcher never starts a thread.
        let child = unsafe { sys::clone3(0, None) }?;
        let Some(child) = child else { work(&theirs) };
        // SAFETY: clone3 has just made this descriptor for us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(child.pidfd) };
        Ok(Self { socket: ours, _pidfd: pidfd })
    }

    /// Hands over what is to be closed for a slot; it says when it has. `false` if nobody is there,
    /// and the launcher has to do it itself.
    pub(super) fn take(&self, slot: u32, descriptors: &[OwnedFd]) -> bool {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        wire::send(self.socket.as_fd(), &slot.to_ne_bytes(), &borrowed).is_ok()
    }

    /// A slot whose descriptors are closed; `None` when there is none, or it is gone.
    pub(super) fn done(&self) -> Option<u32> {
        let mut slot = [0; 4];
        match wire::receive_now(&self.socket, &mut slot) {
            Ok(Some((4, _))) => Some(u32::from_ne_bytes(slot)),
            _ => None,
        }
    }
}

impl AsFd for Janitor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn work(socket: &OwnedFd) -> ! {
    const SOCKET: i32 = 0;
    let _ = set_name(c"ampoule-janitor");
    let laid_out = sys::dup_to(socket.as_raw_fd(), SOCKET).and_then(|()| sys::close_range_from(1));
    if laid_out.is_err() {
        sys::exit(1);
    }
    // SAFETY: it was put there a moment ago, and everything else is closed.
    let socket = unsafe { OwnedFd::from_raw_fd(SOCKET) };
    let mut slot = [0; 4];
    while let Ok(Some((length, descriptors))) = wire::receive(&socket, &mut slot) {
        drop(descriptors);
        if wire::send(socket.as_fd(), &slot[..length], &[]).is_err() {
            break;
        }
    }
    sys::exit(0)
}
