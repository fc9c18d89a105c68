//! The connection to a launcher, shared by every sandbox: commands go out at once or through one
//! queue, reports come in through one reader and are handed to whom they concern.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ampoule_core::{Meters, NetworkPolicy, Result};
use ampoule_jail::{CellLimits, Command, Conditions, Connection, Keeper, Origin, Report};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    error::{self, NotBuilt},
    stages::Stages,
};

/// How long the launcher may take to build a sandbox; it gives up by itself before.
const PREPARE: Duration = Duration::from_secs(20);
/// How long it may take to tell of artifacts or to free a slot.
const ANSWER: Duration = Duration::from_secs(20);
/// How long the keeper may take to clear up.
const CLEAR_UP: Duration = Duration::from_secs(10);

/// What is known of the launcher.
#[derive(Clone, Debug)]
pub(super) enum LinkState {
    /// None has said that it is ready yet.
    Starting,
    /// This one is.
    Up(Arc<Link>),
    /// There will be no other.
    Down(String),
}

/// What a prepared sandbox is made of on our side.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) slot: SlotHandle,
    /// Request (write); stdout, stderr, result (read); notifications.
    pub(super) descriptors: [OwnedFd; 5],
}

/// One slot of a launcher. Dropping it releases the slot.
#[derive(Debug)]
pub(super) struct SlotHandle {
    link: Arc<Link>,
    number: u32,
    reports: mpsc::UnboundedReceiver<Delivery>,
    /// Where the time went.
    pub(super) stages: Stages,
    released: bool,
}

impl SlotHandle {
    /// The slot's number.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Sends a command; that the launcher is gone is seen by [`SlotHandle::next`].
    pub(super) fn send(&self, command: Command) {
        self.link.send(command);
    }

    /// Whether the launcher is there and has said nothing of this slot: what was prepared still
    /// waits. The only thing that it says unasked is that the worker ended.
    pub(super) fn is_quiet(&self) -> bool {
        self.reports.is_empty() && !self.reports.is_closed()
    }

    /// The next report on this slot; `None` when the launcher is gone.
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        self.reports.recv().await
    }

    /// The same for an answer that is due: a launcher that keeps it back is as good as gone.
    pub(super) async fn next_due(&mut self) -> Option<Delivery> {
        tokio::time::timeout(ANSWER, self.next()).await.ok().flatten()
    }

    /// Releases the slot and waits until nothing of it is left. A launcher that is gone has left
    /// nothing either.
    pub(super) async fn release(mut self) {
        self.released = true;
        self.link.send(Command::Release { slot: self.number });
        let mut stages = std::mem::take(&mut self.stages);
        while let Some((report, _)) = self.next_due().await {
            if matches!(report, Report::Released { .. }) {
                break;
            }
        }
        stages.mark("release");
        stages.log();
    }
}

impl Drop for SlotHandle {
    fn drop(&mut self) {
        if !self.released {
            self.link.send(Command::Release { slot: self.number });
        }
    }
}

/// A report with its descriptors.
type Delivery = (Report, Vec<OwnedFd>);
/// What a built slot comes as; or the step that failed.
type PrepareOutcome = std::result::Result<Built, NotBuilt>;

#[derive(Debug)]
struct Built {
    /// Gives the slot back if nobody takes it any more.
    slot: SlotHandle,
    descriptors: Vec<OwnedFd>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The launcher is gone: nothing that is asked for now would ever be answered.
    closed: bool,
    /// Commands for which the socket had no room.
    queue: VecDeque<Command>,
    tickets: HashMap<u32, oneshot::Sender<PrepareOutcome>>,
    slots: HashMap<u32, mpsc::UnboundedSender<Delivery>>,
}

/// A ready launcher.
#[derive(Debug)]
pub(super) struct Link {
    connection: AsyncFd<Connection>,
    shared: Mutex<Shared>,
    /// Says that a command waits for room in the socket.
    waiting: Notify,
    next_ticket: AtomicU32,
    conditions: Conditions,
}

impl Link {
    /// The rung of meters in force.
    pub(super) fn meters(&self) -> Meters {
        match self.conditions.cgroup_version {
            1 => Meters::CgroupV1,
            2 => Meters::CgroupV2,
            _ => Meters::Watch,
        }
    }

    /// What the launcher has found and put up.
    pub(super) fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // A poisoned table is still a table: every entry is whole between two statements.
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether the launcher is gone: whatever else is said of it, another one is to be asked.
    pub(super) fn is_closed(&self) -> bool {
        self.shared().closed
    }

    /// Lets go of the launcher, and of everybody who waits for it.
    fn close(&self) {
        // Sandboxes that were never given back may still hold the connection open.
        self.connection.get_ref().close();
        *self.shared() = Shared { closed: true, ..Shared::default() };
    }

    /// Sends a command, at once if the socket has room: what the caller does next comes after it.
    fn send(&self, command: Command) {
        let mut shared = self.shared();
        if shared.queue.is_empty() {
            match self.connection.get_ref().send(&command) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Sent; or the launcher is gone, and whoever waits for an answer learns it.
                _ => return,
            }
        }
        shared.queue.push_back(command);
        drop(shared);
        self.waiting.notify_one();
    }

    /// Sends what had to wait, for as long as the launcher is there.
    async fn write_queue(&self) {
        loop {
            self.waiting.notified().await;
            loop {
                let Some(command) = self.shared().queue.front().copied() else { break };
                let sent = self.connection.async_io(Interest::WRITABLE, |c| c.send(&command)).await;
                if sent.is_err() {
                    return;
                }
                self.shared().queue.pop_front();
            }
        }
    }

    /// Has a sandbox built.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        template: u32,
        origin: Origin,
        limits: CellLimits,
        network: NetworkPolicy,
    ) -> Result<Prepared> {
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff;
        let (sender, receiver) = oneshot::channel();
        {
            let mut shared = self.shared();
            if shared.closed {
                return Err(error::launcher_lost());
            }
            shared.tickets.insert(ticket, sender);
        }
        self.send(Command::Prepare { ticket, template, origin, limits, network });
        // A launcher that answers nothing is as good as gone.
        let Built { slot, descriptors } = tokio::time::timeout(PREPARE, receiver)
            .await
            .map_err(|_| error::launcher_lost())?
            .map_err(|_| error::launcher_lost())?
            .map_err(error::not_built)?;
        let descriptors = descriptors.try_into().map_err(|_| {
            error::not_built(NotBuilt {
                full: false,
                text: "the launcher handed over too little".to_owned(),
            })
        })?;
        Ok(Prepared { slot, descriptors })
    }

    /// Hands a report to whom it concerns.
    ///
    /// The table of slots is changed here only, in the order in which the launcher speaks: a slot
    /// that is released may be another's with the very next report.
    fn dispatch(self: &Arc<Self>, report: Report, descriptors: Vec<OwnedFd>) {
        let mut shared = self.shared();
        match report {
            Report::Ready { .. } => {}
            Report::Prepared { ticket, slot, cell, worker } => {
                let (sender, reports) = mpsc::unbounded_channel();
                shared.slots.insert(slot, sender);
                let asker = shared.tickets.remove(&ticket);
                // A handle that nobody takes sends a command as it goes, which wants the table.
                drop(shared);
                let slot = SlotHandle {
                    link: Arc::clone(self),
                    number: slot,
                    reports,
                    stages: Stages::new(cell, worker),
                    released: false,
                };
                if let Some(asker) = asker {
                    let _ = asker.send(Ok(Built { slot, descriptors }));
                }
            }
            Report::Failed { ticket, full, text } => {
                if let Some(asker) = shared.tickets.remove(&ticket) {
                    let _ = asker.send(Err(NotBuilt { full, text }));
                }
            }
            Report::Zygote { template, zygote, group, trouble: Some(trouble) } => {
                tracing::warn!(template, zygote, group, trouble, "a warm interpreter failed");
            }
            Report::Zygote { template, zygote, group, trouble: None } => {
                tracing::debug!(template, zygote, group, "a warm interpreter is ready");
            }
            Report::Released { slot } => {
                if let Some(sender) = shared.slots.remove(&slot) {
                    let _ = sender.send((report, descriptors));
                }
            }
            Report::Ended { slot, .. } | Report::File { slot, .. } => {
                if let Some(sender) = shared.slots.get(&slot) {
                    // A receiver that is gone has let its slot go.
                    let _ = sender.send((report, descriptors));
                }
            }
        }
    }
}

/// Watches over the keeper: connects to each launcher that it starts, until told to close.
pub(super) fn tend(
    keeper: Keeper,
    closing: CancellationToken,
) -> Result<(watch::Receiver<LinkState>, JoinHandle<()>)> {
    let (sender, receiver) = watch::channel(LinkState::Starting);
    let control = watch_descriptor(Control(keeper), Interest::READABLE)
        .map_err(error::io("watch the keeper"))?;
    let task = tokio::spawn(async move {
        let reason = tokio::select! {
            reason = follow(&control, &sender) => reason,
            () = closing.cancelled() => "it has been shut down".to_owned(),
        };
        if let LinkState::Up(link) = sender.send_replace(LinkState::Down(reason)) {
            link.close();
        }
        let Control(keeper) = control.into_inner();
        let cleared = tokio::task::spawn_blocking(move || keeper.shutdown(CLEAR_UP)).await;
        if !matches!(cleared, Ok(Ok(()))) {
            tracing::error!("the keeper did not clear up in time");
        }
    });
    Ok((receiver, task))
}

/// Registers a descriptor with the runtime.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that may swap their descriptor; the jail's types \
              own theirs until they are dropped, and unsafe code is the jail's alone"
)]
pub(super) fn watch_descriptor<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}

/// The keeper with its control socket as a descriptor to wait on.
#[derive(Debug)]
struct Control(Keeper);

impl AsRawFd for Control {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.control().as_raw_fd()
    }
}

/// Serves one launcher after another; returns why there is no other.
async fn follow(control: &AsyncFd<Control>, state: &watch::Sender<LinkState>) -> String {
    let mut last = "the keeper ended".to_owned();
    loop {
        let next = control.async_io(Interest::READABLE, |control| control.0.next_launcher()).await;
        let connection = match next {
            Ok(Some(connection)) => connection,
            Ok(None) => return last,
            Err(error) => {
                tracing::error!(%error, "the keeper failed");
                return error.to_string();
            }
        };
        match serve(connection, state).await {
            Ok(()) => tracing::error!("the launcher ended unasked; the keeper starts another"),
            Err(reason) => {
                // Whoever waits for it is told; this is for who reads along.
                tracing::warn!(reason, "the launcher could not start");
                last = reason;
            }
        }
        state.send_replace(LinkState::Starting);
    }
}

/// Serves one launcher to its end. An error is what kept it from starting.
async fn serve(
    connection: Connection,
    state: &watch::Sender<LinkState>,
) -> std::result::Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let interest = Interest::READABLE | Interest::WRITABLE;
    let connection = watch_descriptor(connection, interest).map_err(text)?;
    let first = connection.async_io(Interest::READABLE, Connection::receive).await;
    let conditions = match first.map_err(text)? {
        Some((Report::Ready(conditions), _)) => conditions,
        Some((Report::Failed { text, .. }, _)) => return Err(text),
        _ => return Err("it ended before it was ready".to_owned()),
    };
    let link = Arc::new(Link {
        connection,
        shared: Mutex::default(),
        waiting: Notify::new(),
        next_ticket: AtomicU32::new(0),
        conditions,
    });
    state.send_replace(LinkState::Up(Arc::clone(&link)));
    let read = async {
        let receive = || link.connection.async_io(Interest::READABLE, Connection::receive);
        loop {
            match receive().await {
                Ok(Some((report, descriptors))) => link.dispatch(report, descriptors),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "the launcher cannot be understood");
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = link.write_queue() => {}
        () = read => {}
    }
    link.close();
    Ok(())
}
