//! One execution: create, execute, destroy.
//!
//! The run lives in its own task. The task, not the caller, owns the sandbox and the place:
//!
//! ```text
//! waiting --place--> creating --> running --Finished, Err, panic--> destroying --> gone, place free
//!                        \-- withdrawn: Err(Cancelled) -----------------^
//! ```
//!
//! Events go to the caller over a channel without a bound: what a program can send is bounded by
//! its output limit, and a caller who reads slowly must not keep a sandbox alive. The last event is
//! handed out before `destroy`, which the caller need not wait for.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ampoule_core::{
    CancellationToken, Error, ErrorKind, Event, EventStream, ExecuteRequest, ExecutionId, Finished,
    IsolationReport, Language, Outcome, Provider, Result, Sandbox,
};
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;
use tracing::{debug, error, info, warn};

use crate::{admission::Place, lifecycle::Lifecycle};

/// A run that has begun. Dropping it cancels the run.
pub struct Execution {
    /// Names it.
    pub id: ExecutionId,
    /// What is enforced around it.
    pub isolation: IsolationReport,
    /// What happens; dropping the stream cancels the run.
    pub events: EventStream,
}

impl fmt::Debug for Execution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Execution")
            .field("id", &self.id)
            .field("isolation", &self.isolation)
            .finish_non_exhaustive()
    }
}

/// The source of an error that was a panic on our side.
#[derive(Clone, Copy, Debug)]
pub struct Panicked;

impl fmt::Display for Panicked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a panic")
    }
}

impl std::error::Error for Panicked {}

/// Begins a run in `place` and waits until its program is started.
pub(crate) async fn start(
    provider: Arc<dyn Provider>,
    request: ExecuteRequest,
    cancel: CancellationToken,
    place: Place,
    lifecycle: &Lifecycle,
) -> Result<Execution> {
    let id = request.id.clone();
    let caller = cancel.child_token();
    // From here on a caller who goes away, even before the program is started, cancels the run.
    let guard = caller.clone().drop_guard();
    let (started, when_started) = oneshot::channel();
    let (events, received) = mpsc::unbounded_channel();
    let run = Run { provider, request, cancel: lifecycle.run_token(), started, events };
    lifecycle.spawn(run.until_gone(caller, place));
    match when_started.await {
        Ok(started) => {
            let events = Box::pin(Events { received, _cancel_on_drop: guard });
            Ok(Execution { id, isolation: started?, events })
        }
        Err(_) => Err(internal("the run ended without a word")),
    }
}

/// The caller's end of the events.
struct Events {
    received: mpsc::UnboundedReceiver<Result<Event>>,
    _cancel_on_drop: DropGuard,
}

impl Stream for Events {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.received.poll_recv(context)
    }
}

/// What the task of a run owns.
struct Run {
    provider: Arc<dyn Provider>,
    request: ExecuteRequest,
    cancel: CancellationToken,
    started: oneshot::Sender<Result<IsolationReport>>,
    events: mpsc::UnboundedSender<Result<Event>>,
}

/// How a run ended, for the log.
enum End {
    Finished(Box<Finished>),
    Failed(String),
}

impl Run {
    /// Goes on until the sandbox is destroyed; `caller` cancels the run, `place` is held so long.
    async fn until_gone(self, caller: CancellationToken, place: Place) {
        let (id, language) = (self.request.id.clone(), self.request.language.clone());
        let cancel = self.cancel.clone();
        let relay = async {
            caller.cancelled().await;
            cancel.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = relay => {}
            end = self.create_and_go() => report(&id, &language, &place, &end),
        }
        drop(place);
    }

    async fn create_and_go(self) -> End {
        let Self { provider, request, cancel, started, events } = self;
        let created = AssertUnwindSafe(provider.create(request.spec())).catch_unwind().await;
        let mut sandbox = match created.unwrap_or_else(|_| Err(panicked())) {
            Ok(sandbox) => sandbox,
            Err(error) => return refuse(started, error),
        };
        if cancel.is_cancelled() {
            destroy(sandbox).await;
            let message = "the request was withdrawn";
            let error = Error::new(ErrorKind::Cancelled, "start the program", message);
            return refuse(started, error);
        }
        let id = request.id.clone();
        let executed = AssertUnwindSafe(sandbox.execute(request, cancel)).catch_unwind().await;
        let stream = match executed.unwrap_or_else(|_| Err(panicked())) {
            Ok(stream) => stream,
            Err(error) => {
                let end = refuse(started, error);
                destroy(sandbox).await;
                return end;
            }
        };
        debug!(execution_id = %id, sandbox_id = %sandbox.id(), "execution started");
        // Nobody may be listening any more, and the run still has to be seen to its end.
        let _ = started.send(Ok(sandbox.isolation().clone()));
        let forwarded = AssertUnwindSafe(forward(stream, &events)).catch_unwind().await;
        let end = forwarded.unwrap_or_else(|_| fail(&events, panicked()));
        // The caller's stream ends here; `destroy` goes on behind the answer.
        drop(events);
        destroy(sandbox).await;
        end
    }
}

/// Hands the events on until the first end, and holds the provider to the law that there is one.
async fn forward(mut stream: EventStream, events: &mpsc::UnboundedSender<Result<Event>>) -> End {
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Finished(finished)) => {
                let _ = events.send(Ok(Event::Finished(finished.clone())));
                return End::Finished(finished);
            }
            // A caller who went away cancels the run by its guard; until the run has ended, what it
            // still gives is dropped.
            Ok(event) => drop(events.send(Ok(event))),
            Err(error) => return fail(events, error),
        }
    }
    fail(events, internal("the provider's events stopped without an end"))
}

fn fail(events: &mpsc::UnboundedSender<Result<Event>>, error: Error) -> End {
    let error = error.after_start();
    let end = End::Failed(error.chain());
    let _ = events.send(Err(error));
    end
}

fn refuse(started: oneshot::Sender<Result<IsolationReport>>, error: Error) -> End {
    let end = End::Failed(error.chain());
    let _ = started.send(Err(error));
    end
}

fn internal(message: &str) -> Error {
    Error::new(ErrorKind::Internal, "run the program", message)
}

fn panicked() -> Error {
    internal("an internal fault").after_start().with_source(Panicked)
}

/// Destroys a sandbox; a failure is ours to know, not the caller's.
async fn destroy(sandbox: Box<dyn Sandbox>) {
    let id = sandbox.id().clone();
    match AssertUnwindSafe(sandbox.destroy()).catch_unwind().await {
        Ok(Ok(())) => debug!(sandbox_id = %id, "sandbox destroyed"),
        Ok(Err(error)) => error!(sandbox_id = %id, error = error.chain(), "destroy failed"),
        Err(_) => error!(sandbox_id = %id, "destroy panicked"),
    }
}

/// Logs how a run ended: never code, arguments or output.
fn report(id: &ExecutionId, language: &Language, place: &Place, end: &End) {
    let waited_us = u64::try_from(place.waited.as_micros()).unwrap_or(u64::MAX);
    match end {
        End::Finished(finished) => {
            let usage = &finished.usage;
            let limit = match finished.outcome {
                Outcome::LimitExceeded { limit } => Some(limit.as_str()),
                _ => None,
            };
            info!(
                execution_id = %id,
                %language,
                outcome = outcome_kind(&finished.outcome),
                limit,
                waited_us,
                wall_us = usage.wall_us,
                cpu_us = usage.cpu_us,
                memory_peak = usage.memory_peak,
                processes_peak = usage.processes_peak,
                "execution finished"
            );
        }
        End::Failed(error) => {
            warn!(execution_id = %id, %language, waited_us, error, "execution failed");
        }
    }
}

fn outcome_kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed { .. } => "failed",
        Outcome::LimitExceeded { .. } => "limit_exceeded",
        Outcome::Denied { .. } => "denied",
        Outcome::Cancelled => "cancelled",
    }
}
