//! The janitor: closes what the launcher must not wait for.
//!
//! The last descriptor of a mount namespace takes its file systems along, and the kernel waits in
//! that call for grace periods, a dozen of them. So the launcher keeps a cell's namespace open until
//! the answer is out, and then has this process close it. It holds nothing else.
//!
//! Network namespaces cost the kernel the most, in a worker of its own, and most of that once for as
//! many as end together: the janitor lets go of them in batches, a little later.
//!
//! It may be slow or gone: then the launcher closes by itself what it would have handed over.

use std::{
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    io::Errno,
    process::{WaitId, WaitIdOptions, waitid},
    thread::set_name,
};

use crate::{
    error::{Jail, Step},
    sys, wire,
};

/// The launcher's end.
#[derive(Debug)]
pub(super) struct Janitor {
    socket: OwnedFd,
    pidfd: OwnedFd,
    born: Instant,
}

/// What there is to be heard of the janitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// What was kept for this slot is closed.
    Closed(u32),
    /// Nothing yet.
    Silence,
    /// It ended, and what it held is closed.
    Gone,
}

/// One that did not live so long is not followed by another.
const TRIAL: Duration = Duration::from_secs(1);

impl Janitor {
    /// Starts one. The first is the first process that the launcher clones, and so its pid 2, which
    /// the kernel gives once: workers are pid 2 in their cells, and libraries tell a fork by another
    /// pid than before, so no zygote may have that one.
    pub(super) fn start() -> Jail<Self> {
        let (ours, theirs) = wire::pair().step("make the janitor's socket")?;
        // Two that wait for room in each other's queue would wait for ever.
        fcntl_setfl(&ours, OFlags::NONBLOCK).step("make the janitor's socket non-blocking")?;
        // SAFETY: the launcher never starts a thread.
        let child = unsafe { sys::clone3(0, None) }?;
        let Some(child) = child else { work(&theirs) };
        // SAFETY: clone3 has just made this descriptor for us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(child.pidfd) };
        Ok(Self { socket: ours, pidfd, born: Instant::now() })
    }

    /// Reaps one that is gone; another takes its place if that makes sense.
    pub(super) fn replace(self) -> Option<Self> {
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        if self.born.elapsed() < TRIAL {
            return None;
        }
        Self::start().ok()
    }

    /// Hands over what is to be closed for a slot; it says when it has. What is for `later` holds a
    /// network namespace, and may wait. `false` if nobody is there or it has no room, and the
    /// launcher has done it itself.
    pub(super) fn take(&self, slot: u32, now: Vec<OwnedFd>, later: Vec<OwnedFd>) -> bool {
        let borrowed: Vec<_> = now.iter().chain(&later).map(AsFd::as_fd).collect();
        let mut order = [0; 8];
        order[..4].copy_from_slice(&slot.to_ne_bytes());
        order[4..].copy_from_slice(&u32::try_from(now.len()).unwrap_or(0).to_ne_bytes());
        let taken = wire::send(self.socket.as_fd(), &order, &borrowed).is_ok();
        drop((now, later));
        if taken {
            // Only now: whoever closes last waits. Without room for it the janitor goes by time.
            let _ = wire::send(self.socket.as_fd(), &GO, &[]);
        }
        taken
    }

    /// Its next word.
    pub(super) fn hear(&self) -> Word {
        let mut slot = [0; 4];
        match wire::receive_now(&self.socket, &mut slot) {
            Ok(Some((4, _))) => Word::Closed(u32::from_ne_bytes(slot)),
            Err(Errno::AGAIN) => Word::Silence,
            _ => Word::Gone,
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
    let mut order = [0; 8];
    let mut namespaces = Vec::new();
    // What the launcher may have open as well, until its next word.
    let mut held: Option<([u8; 4], Vec<OwnedFd>)> = None;
    loop {
        let comes = match &held {
            Some(_) => comes_within(&socket, &SOON),
            None if namespaces.is_empty() => true,
            None => namespaces.len() < BATCH && comes_within(&socket, &PATIENCE),
        };
        if held.is_none() && !comes {
            namespaces.clear();
            continue;
        }
        let word =
            if comes { wire::receive(&socket, &mut order) } else { Ok(Some((0, Vec::new()))) };
        let Ok(Some((length, mut descriptors))) = word else { break };
        if let Some((slot, closed)) = held.take() {
            drop(closed);
            if wire::send(socket.as_fd(), &slot, &[]).is_err() {
                break;
            }
        }
        if length == order.len() {
            let [a, b, c, d, now @ ..] = order;
            let now = u32::from_ne_bytes(now) as usize;
            namespaces.extend(descriptors.split_off(now.min(descriptors.len())));
            held = Some(([a, b, c, d], descriptors));
        }
    }
    sys::exit(0)
}

/// The launcher has closed its own.
const GO: [u8; 1] = *b"g";

/// So many descriptors of network namespaces wait for each other.
const BATCH: usize = 64;
/// And for so long.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// In this time the launcher has closed its own, whether it said so or not.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Whether the launcher says something in that time.
fn comes_within(socket: &OwnedFd, time: &Timespec) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    matches!(poll(&mut polled, Some(time)), Ok(1..))
}
