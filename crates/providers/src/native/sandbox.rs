//! A native sandbox: one slot of the launcher with an interpreter that waits for its one request.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ampoule_core::{
    CancellationToken, Error, ErrorKind, EventStream, ExecuteRequest, IsolationReport, Result,
    Sandbox, SandboxId, SandboxSpec,
};
use ampoule_jail::Listener;
use async_trait::async_trait;
use futures_util::stream;
use tokio::{
    io::{AsyncReadExt as _, Interest, unix::AsyncFd},
    net::unix::pipe::{Receiver, Sender},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    channels::{Channels, RuntimeTraits, next_refused},
    error,
    frame::READY,
    link::{Prepared, SlotHandle, watch_descriptor},
    run::Run,
};

/// Events that may wait for a slow reader before the program has to.
const EVENTS_AHEAD: usize = 64;

static CREATED: AtomicU64 = AtomicU64::new(0);

/// A native sandbox.
#[derive(Debug)]
pub(super) struct NativeSandbox {
    id: SandboxId,
    spec: SandboxSpec,
    isolation: Arc<IsolationReport>,
    traits: RuntimeTraits,
    /// Taken by the one execution.
    ready: Option<(SlotHandle, Channels)>,
    /// Gives the slot back when the execution is over.
    returned: Option<oneshot::Receiver<SlotHandle>>,
    /// Ends the execution when the sandbox goes.
    abandon: CancellationToken,
    /// Says that another would be made in another way by now.
    outdated: Option<Arc<AtomicBool>>,
}

impl NativeSandbox {
    /// Waits until the interpreter of a prepared slot has started.
    pub(super) async fn start(
        prepared: Prepared,
        spec: SandboxSpec,
        isolation: IsolationReport,
        traits: RuntimeTraits,
        patience: Duration,
    ) -> Result<Self> {
        let Prepared { mut slot, descriptors: [request, stdout, stderr, result, listener] } =
            prepared;
        let operation = "open the channels of a sandbox";
        let mut channels = Channels {
            request: Sender::from_owned_fd(request).map_err(error::io(operation))?,
            stdout: Receiver::from_owned_fd(stdout).map_err(error::io(operation))?,
            stderr: Receiver::from_owned_fd(stderr).map_err(error::io(operation))?,
            result: Receiver::from_owned_fd(result).map_err(error::io(operation))?,
            listener: Listener::new(listener)
                .map_err(std::io::Error::other)
                .and_then(|listener| watch_descriptor(listener, Interest::READABLE))
                .map_err(error::io(operation))?,
        };
        let mut byte = [0];
        let said = tokio::select! {
            said = timeout(patience, channels.result.read_exact(&mut byte)) => said,
            // Interpreters try what they may do. That is not the program's doing.
            never = refuse_silently(&channels.listener) => match never {},
        };
        let problem = match said {
            Ok(Ok(_)) if byte[0] == READY => None,
            Ok(Ok(_)) => Some("the runner wrote something else than its ready byte"),
            Ok(Err(_)) => Some("it ended"),
            Err(_) => Some("the runner was not ready in time"),
        };
        if let Some(problem) = problem {
            // No user code has run, so what the interpreter says is safe to log.
            let mut text = vec![0; 4096];
            let read = timeout(Duration::from_millis(200), channels.stderr.read(&mut text)).await;
            let length = read.ok().and_then(|read| read.ok()).unwrap_or(0);
            return Err(error::not_started(problem, &String::from_utf8_lossy(&text[..length])));
        }
        slot.stages.mark("interpreter");
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            id: SandboxId::new(format!("native-{number}")),
            spec,
            isolation: Arc::new(isolation),
            traits,
            ready: Some((slot, channels)),
            returned: None,
            abandon: CancellationToken::new(),
            outdated: None,
        })
    }

    /// The same, which is not worth keeping once it is said to be outdated.
    pub(super) fn until(mut self, outdated: Option<Arc<AtomicBool>>) -> Self {
        self.outdated = outdated;
        self
    }
}

/// Refuses denied calls and records none, until it is dropped.
async fn refuse_silently(listener: &AsyncFd<Listener>) -> Infallible {
    while next_refused(listener).await.is_ok() {}
    std::future::pending().await
}

#[async_trait]
impl Sandbox for NativeSandbox {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    fn isolation(&self) -> &IsolationReport {
        &self.isolation
    }

    fn is_ready(&self) -> bool {
        let is_outdated =
            self.outdated.as_ref().is_some_and(|outdated| outdated.load(Ordering::Acquire));
        !is_outdated && self.ready.as_ref().is_some_and(|(slot, _)| slot.is_quiet())
    }

    async fn execute(
        &mut self,
        request: ExecuteRequest,
        cancel: CancellationToken,
    ) -> Result<EventStream> {
        crate::gate::check_request(&self.spec, &request)?;
        // What ended while it waited has run no program: whoever asks may ask for another.
        if self.ready.as_ref().is_some_and(|(slot, _)| !slot.is_quiet()) {
            return Err(error::launcher_lost());
        }
        let (slot, channels) = self.ready.take().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "execute",
                "a sandbox runs one program and no second",
            )
        })?;
        // What the interpreter tried while it waited is not the program's doing.
        while let Ok(Some(_)) = channels.listener.get_ref().refuse_next() {}
        let (events, receiver) = mpsc::channel(EVENTS_AHEAD);
        let (give_back, returned) = oneshot::channel();
        self.returned = Some(returned);
        let run = Run {
            slot,
            events,
            limits: request.limits,
            traits: self.traits.clone(),
            meters: self.isolation.meters,
            cancel,
            abandon: self.abandon.clone(),
        };
        tokio::spawn(async move {
            let slot = run.drive(channels, &request).await;
            // A sandbox that was dropped meanwhile takes nothing back: the slot goes by itself.
            let _ = give_back.send(slot);
        });
        Ok(Box::pin(stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|event| (event, receiver))
        })))
    }

    async fn destroy(mut self: Box<Self>) -> Result<()> {
        self.abandon.cancel();
        let slot = match (self.ready.take(), self.returned.take()) {
            (Some((slot, _)), _) => Some(slot),
            (None, Some(returned)) => returned.await.ok(),
            (None, None) => None,
        };
        if let Some(slot) = slot {
            slot.release().await;
        }
        Ok(())
    }
}

impl Drop for NativeSandbox {
    fn drop(&mut self) {
        self.abandon.cancel();
    }
}
