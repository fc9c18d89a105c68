//! Our ends of a sandbox's channels, and what is known of the interpreter at the other.

use ampoule_core::Protocol;
use ampoule_jail::Listener;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::unix::pipe::{Receiver, Sender},
};

/// Our ends of a sandbox's channels.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) request: Sender,
    pub(super) stdout: Receiver,
    pub(super) stderr: Receiver,
    pub(super) result: Receiver,
    pub(super) listener: AsyncFd<Listener>,
}

/// What a runtime says of its runner and its interpreter, as far as a run goes.
#[derive(Clone, Debug)]
pub(super) struct RuntimeTraits {
    /// How the runner is spoken to.
    pub(super) protocol: Protocol,
    /// It aborts by itself when its heap meets the limit.
    pub(super) heap_aborts: bool,
    /// Calls that it tries by itself.
    pub(super) probes: Vec<String>,
}

/// Refuses the next denied call and names it; an error when no process is left.
pub(super) async fn next_refused(listener: &AsyncFd<Listener>) -> std::io::Result<String> {
    let next = |listener: &Listener| {
        listener.refuse_next()?.ok_or_else(|| std::io::ErrorKind::WouldBlock.into())
    };
    listener.async_io(Interest::READABLE, next).await
}
