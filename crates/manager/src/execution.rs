//! One execution: take or create a sandbox, execute, destroy.
//!
//! The run lives in its own task. The task, not the caller, owns the sandbox and the place:
//!
//! ```text
//! waiting --place--> taking or creating --> running --Finished, Err, panic--> destroying --> gone
//!                        \-- withdrawn: Err(Cancelled) ---------------------------^    (place free)
//!                    a ready sandbox is of no use and the program has not begun: creating, once
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
    time::{Duration, Instant},
};

use ampoule_core::{
    CancellationToken, Error, ErrorKind, Event, EventStream, ExecuteRequest, ExecutionId, Finished,
    IsolationReport, Outcome, Provider, Result, Sandbox, SandboxSpec,
};
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;
use tracing::{debug, error, info, warn};

use crate::{
    admission::Place,
    lifecycle::Lifecycle,
    pool::{Hold, Pool, PoolUse, REFILL_AFTER, Taken},
};

/// A run that has begun. Dropping it cancels the run.
pub struct Execution {
    /// Names it.
    pub id: ExecutionId,
    /// What is enforced around it.
    pub isolation: IsolationReport,
    /// Whether its sandbox was ready before.
    pub pool: PoolUse,
    /// What happens; dropping the stream cancels the run.
    pub events: EventStream,
}

impl fmt::Debug for Execution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Execution")
            .field("id", &self.id)
            .field("isolation", &self.isolation)
            .field("pool", &self.pool)
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

/// Where a run has its sandbox from.
#[derive(Debug)]
pub(crate) struct Supply {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) pool: Arc<Pool>,
}

/// Begins a run in `place` and waits until its program is started.
pub(crate) async fn start(
    supply: Supply,
    spec: SandboxSpec,
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
    let run = Run { supply, spec, request, cancel: lifecycle.run_token(), started, events };
    lifecycle.spawn(run.until_gone(caller, place));
    match when_started.await {
        Ok(started) => {
            let Started { isolation, pool } = started?;
            let events = Box::pin(Events { received, _cancel_on_drop: guard });
            Ok(Execution { id, isolation, pool, events })
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
    supply: Supply,
    spec: SandboxSpec,
    request: ExecuteRequest,
    cancel: CancellationToken,
    started: oneshot::Sender<Result<Started>>,
    events: mpsc::UnboundedSender<Result<Event>>,
}

/// What the caller learns when the program is started.
struct Started {
    isolation: IsolationReport,
    pool: PoolUse,
}

/// How a run ended, for the log.
enum End {
    Finished(Box<Finished>),
    Failed(String),
}

/// What is told of a run when it is gone.
struct Told {
    end: End,
    pool: PoolUse,
    stages: Stages,
}

/// Where a run's time went.
#[derive(Clone, Copy, Default)]
struct Stages {
    sandbox: Duration,
    program: Duration,
    destroy: Duration,
}

impl Run {
    /// Goes on until the sandbox is destroyed; `caller` cancels the run, `place` is held so long.
    async fn until_gone(self, caller: CancellationToken, place: Place) {
        let (id, spec) = (self.request.id.clone(), self.spec.clone());
        let cancel = self.cancel.clone();
        let relay = async {
            caller.cancelled().await;
            cancel.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = relay => {}
            told = self.follow_to_its_end() => report(&id, &spec, &place, &told),
        }
        drop(place);
    }

    async fn follow_to_its_end(self) -> Told {
        let Self { supply, spec, request, cancel, started, events } = self;
        let began = Instant::now();
        let id = request.id.clone();
        let (begun, pool) = supply.begin(&spec, request, &cancel).await;
        let mut stages = Stages { sandbox: began.elapsed(), ..Stages::default() };
        let Begun { sandbox, stream, hold } = match begun {
            Ok(begun) => begun,
            Err(NotBegun { error, sandbox }) => {
                let end = refuse(started, error);
                if let Some(sandbox) = sandbox {
                    destroy(sandbox).await;
                }
                return Told { end, pool, stages };
            }
        };
        debug!(execution_id = %id, sandbox_id = %sandbox.id(), "execution started");
        // Nobody may be listening any more, and the run still has to be seen to its end.
        let _ = started.send(Ok(Started { isolation: sandbox.isolation().clone(), pool }));
        let follow = async {
            let began = Instant::now();
            let forwarded = AssertUnwindSafe(forward(stream, &events)).catch_unwind().await;
            let end = forwarded.unwrap_or_else(|_| fail(&events, panicked()));
            stages.program = began.elapsed();
            // The caller's stream ends here; `destroy` goes on behind the answer.
            drop(events);
            let began = Instant::now();
            destroy(sandbox).await;
            stages.destroy = began.elapsed();
            end
        };
        let end = holding(hold, follow).await;
        Told { end, pool, stages }
    }
}

/// A program in its sandbox.
struct Begun {
    sandbox: Box<dyn Sandbox>,
    stream: EventStream,
    hold: Hold,
}

/// Why a program has not begun, and the sandbox that it was to begin in.
struct NotBegun {
    error: Error,
    sandbox: Option<Box<dyn Sandbox>>,
}

impl Supply {
    /// Begins a program in a ready sandbox, or in one that is created for it.
    async fn begin(
        &self,
        spec: &SandboxSpec,
        request: ExecuteRequest,
        cancel: &CancellationToken,
    ) -> (Result<Begun, NotBegun>, PoolUse) {
        let Taken { sandbox, hold } = self.pool.take(spec);
        let Some(sandbox) = sandbox else {
            return (self.create_and_execute(spec, request, hold, cancel).await, PoolUse::Miss);
        };
        // Code and arguments are shared by the clone.
        match execute(sandbox, request.clone(), cancel).await {
            Ok((sandbox, stream)) => (Ok(Begun { sandbox, stream, hold }), PoolUse::Hit),
            Err(NotBegun { error, sandbox: Some(sandbox) })
                if !error.program_may_have_started() && !cancel.is_cancelled() =>
            {
                debug!(sandbox_id = %sandbox.id(), error = error.chain(), "not ready after all");
                self.pool.discard(sandbox);
                (self.create_and_execute(spec, request, hold, cancel).await, PoolUse::Miss)
            }
            Err(not_begun) => (Err(not_begun), PoolUse::Hit),
        }
    }

    async fn create_and_execute(
        &self,
        spec: &SandboxSpec,
        request: ExecuteRequest,
        hold: Hold,
        cancel: &CancellationToken,
    ) -> Result<Begun, NotBegun> {
        let created = AssertUnwindSafe(self.provider.create(spec.clone())).catch_unwind().await;
        let sandbox = created
            .unwrap_or_else(|_| Err(panicked()))
            .map_err(|error| NotBegun { error, sandbox: None })?;
        let (sandbox, stream) = execute(sandbox, request, cancel).await?;
        Ok(Begun { sandbox, stream, hold })
    }
}

/// Begins a program in a sandbox, unless it is withdrawn.
async fn execute(
    mut sandbox: Box<dyn Sandbox>,
    request: ExecuteRequest,
    cancel: &CancellationToken,
) -> Result<(Box<dyn Sandbox>, EventStream), NotBegun> {
    let executed = if cancel.is_cancelled() {
        let message = "the request was withdrawn";
        Err(Error::new(ErrorKind::Cancelled, "start the program", message))
    } else {
        let executed = sandbox.execute(request, cancel.clone());
        AssertUnwindSafe(executed).catch_unwind().await.unwrap_or_else(|_| Err(panicked()))
    };
    match executed {
        Ok(stream) => Ok((sandbox, stream)),
        Err(error) => Err(NotBegun { error, sandbox: Some(sandbox) }),
    }
}

/// Keeps the pool from replacing what a run has taken until the run is over, or has gone on for long.
async fn holding<T>(hold: Hold, run: impl Future<Output = T>) -> T {
    tokio::pin!(run);
    tokio::select! {
        biased;
        end = &mut run => return end,
        () = tokio::time::sleep(REFILL_AFTER) => drop(hold),
    }
    run.await
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

fn refuse(started: oneshot::Sender<Result<Started>>, error: Error) -> End {
    let end = End::Failed(error.chain());
    let _ = started.send(Err(error));
    end
}

fn internal(message: &str) -> Error {
    Error::new(ErrorKind::Internal, "run the program", message)
}

pub(crate) fn panicked() -> Error {
    internal("an internal fault").after_start().with_source(Panicked)
}

/// Destroys a sandbox; a failure is ours to know, not the caller's.
pub(crate) async fn destroy(sandbox: Box<dyn Sandbox>) {
    let id = sandbox.id().clone();
    match AssertUnwindSafe(sandbox.destroy()).catch_unwind().await {
        Ok(Ok(())) => debug!(sandbox_id = %id, "sandbox destroyed"),
        Ok(Err(error)) => error!(sandbox_id = %id, error = error.chain(), "destroy failed"),
        Err(_) => error!(sandbox_id = %id, "destroy panicked"),
    }
}

/// Logs how a run ended: never code, arguments or output.
fn report(id: &ExecutionId, spec: &SandboxSpec, place: &Place, told: &Told) {
    let Told { end, pool, stages } = told;
    let (language, pool, waited_us) = (&spec.language, pool.as_str(), micros(place.waited));
    let template = spec.template.as_ref().map(|template| template.as_str());
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
                template,
                pool,
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
            warn!(execution_id = %id, %language, template, pool, waited_us, error, "execution failed");
        }
    }
    debug!(
        execution_id = %id,
        pool,
        waited_us,
        sandbox_us = micros(stages.sandbox),
        program_us = micros(stages.program),
        destroy_us = micros(stages.destroy),
        "execution stages"
    );
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
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
