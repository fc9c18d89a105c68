//! The toy with one fault: what each law is there to find.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ampoule_core::{
    Artifact, CancellationToken, Capabilities, Denial, DestroyGrade, Error, ErrorKind, Event,
    EventStream, ExecuteRequest, Finished, IsolationLevel, IsolationReport, Language, LimitKind,
    Limits, NetworkPolicy, OnOutputLimit, Outcome, Provider, ProviderInfo, RawValue, Result,
    Sandbox, SandboxId, SandboxSpec, ValueChannel,
};
use ampoule_testkit::conformance::Act;
use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};

use crate::provider::{Machine, Toy};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Says twice that it ended.
    TwoEnds,
    /// Never says that it ended.
    NoEnd,
    /// Goes on talking after the end.
    TalksAfterTheEnd,
    /// Makes a program's failure its own.
    FailureIsAnError,
    /// Makes its own failure a program's.
    HidesItsFailure,
    /// Says success whatever happened.
    AlwaysSucceeds,
    /// Is never healthy.
    Unhealthy,
    /// Loses the arguments.
    LosesArguments,
    /// Drops the output of what did not succeed.
    SwallowsOutput,
    /// Keeps ASCII only.
    Garbles,
    /// Keeps more output than the limit.
    KeepsAll,
    /// Discards and does not say how much.
    HidesLoss,
    /// Does not stop at the output limit, though it was told.
    NeverStopsForOutput,
    /// Says cancelled while a child lives.
    CancelLeavesChildren,
    /// Ignores the cancel token.
    IgnoresCancel,
    /// Runs on when nobody reads its events.
    IgnoresLeaving,
    /// Takes the exit code for a verdict.
    ExitCodeDecides,
    /// Takes a word on stderr for a verdict.
    StderrDecides,
    /// Reads the value from stdout.
    ValueFromStdout,
    /// Takes whatever was written on any descriptor.
    ValueFromAnyDescriptor,
    /// Reads the value from a file.
    ValueFromArtifact,
    /// Makes artifacts of printed names.
    ArtifactFromStdout,
    /// Changes the value.
    RoundsValue,
    /// Clamps limits.
    Clamps,
    /// Runs any language as its own.
    AnyLanguage,
    /// Takes any network policy and holds none.
    AnyNetwork,
    /// Reports less isolation than it declares.
    Downgrades,
    /// Leaves the processes of a run.
    LeavesProcesses,
    /// Leaves a sandbox when it is dropped.
    LeavesSandboxes,
    /// Shows a run what others left.
    SharesTraces,
    /// Shows a run the locks of others on devices, and does not report it.
    SharesDevices,
    /// Runs whatever it is asked for, also twice.
    RunsTwice,
    /// Says that it is ready whatever has been run in it.
    AlwaysReady,
    /// Says that it is not ready before anything was run in it.
    NeverReady,
    /// Holds a program to the wall clock and the output that it was created with.
    KeepsItsLimits,
    /// Logs the code and the arguments.
    LogsCode,
    /// Repeats the code in a refusal.
    RefusalTells,
    /// Shows the code in a `Debug`.
    DebugTells,
    /// Has one id for all.
    OneId,
    /// Waits, when destroyed, for a reader.
    DestroyWaits,
    /// Gives one run the output of another.
    MixesOutput,
    /// Lets programs run on after the shutdown.
    ShutdownEndsNothing,
    /// Creates after the shutdown.
    NeverCloses,
    /// Declares a grade below the floor of its level.
    LowGrade,
}

impl Fault {
    /// Every fault with the law that must find it.
    pub(crate) const ALL: [(Self, &'static str); 44] = [
        (Self::TwoEnds, "one_finished_last"),
        (Self::NoEnd, "one_finished_last"),
        (Self::TalksAfterTheEnd, "one_finished_last"),
        (Self::FailureIsAnError, "one_finished_last"),
        (Self::HidesItsFailure, "one_finished_last"),
        (Self::AlwaysSucceeds, "verdict_from_evidence"),
        (Self::Unhealthy, "control"),
        (Self::LosesArguments, "control"),
        (Self::SwallowsOutput, "output_before_a_stop_is_kept"),
        (Self::Garbles, "text_is_utf8"),
        (Self::KeepsAll, "output_beyond_the_limit"),
        (Self::HidesLoss, "output_beyond_the_limit"),
        (Self::NeverStopsForOutput, "output_beyond_the_limit"),
        (Self::CancelLeavesChildren, "cancel"),
        (Self::IgnoresCancel, "cancel"),
        (Self::IgnoresLeaving, "cancel"),
        (Self::ExitCodeDecides, "verdict_from_evidence"),
        (Self::StderrDecides, "verdict_from_evidence"),
        (Self::ValueFromStdout, "value_channel"),
        (Self::ValueFromAnyDescriptor, "value_channel"),
        (Self::ValueFromArtifact, "value_channel"),
        (Self::ArtifactFromStdout, "value_channel"),
        (Self::RoundsValue, "value_channel"),
        (Self::Clamps, "undeclared_is_refused"),
        (Self::AnyLanguage, "undeclared_is_refused"),
        (Self::AnyNetwork, "undeclared_is_refused"),
        (Self::Downgrades, "undeclared_is_refused"),
        (Self::LeavesProcesses, "nothing_is_left"),
        (Self::LeavesSandboxes, "nothing_is_left"),
        (Self::SharesTraces, "no_execution_sees_another"),
        (Self::SharesDevices, "no_execution_sees_another"),
        (Self::RunsTwice, "one_program_per_sandbox"),
        (Self::AlwaysReady, "one_program_per_sandbox"),
        (Self::NeverReady, "one_program_per_sandbox"),
        (Self::KeepsItsLimits, "undeclared_is_refused"),
        (Self::LogsCode, "nothing_is_logged"),
        (Self::RefusalTells, "nothing_is_logged"),
        (Self::DebugTells, "nothing_is_logged"),
        (Self::OneId, "create_and_destroy"),
        (Self::DestroyWaits, "create_and_destroy"),
        (Self::MixesOutput, "create_and_destroy"),
        (Self::ShutdownEndsNothing, "create_and_destroy"),
        (Self::NeverCloses, "create_and_destroy"),
        (Self::LowGrade, "control"),
    ];
}

impl Fault {
    /// Changes limits quietly.
    fn change(self, limits: &mut Limits) {
        match self {
            Self::NeverStopsForOutput => limits.on_output = OnOutputLimit::Discard,
            Self::KeepsAll => limits.output *= 10,
            Self::Clamps => {
                limits.wall = limits.wall.clamp(Duration::from_millis(1), Duration::from_secs(60));
                limits.memory = limits.memory.clamp(1 << 20, 1 << 29);
                limits.processes = limits.processes.min(64);
            }
            _ => {}
        }
    }
}

/// A provider that does what the toy does, but for one fault.
#[derive(Debug)]
pub(crate) struct Broken {
    toy: Arc<Toy>,
    fault: Fault,
    shared: Arc<Shared>,
}

/// What its sandboxes have in common, and should not.
#[derive(Debug, Default)]
struct Shared {
    traces: Mutex<Vec<String>>,
    last_output: Mutex<String>,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Broken {
    pub(crate) fn new(fault: Fault) -> (Self, Arc<Machine>) {
        let toy = Arc::new(Toy::default());
        let machine = Arc::clone(&toy.machine);
        (Self { toy, fault, shared: Arc::default() }, machine)
    }
}

#[async_trait]
impl Provider for Broken {
    fn info(&self) -> ProviderInfo {
        self.toy.info()
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        let mut capabilities = self.toy.capabilities().as_ref().clone();
        if self.fault == Fault::LowGrade {
            capabilities.value_channel = ValueChannel::Shared;
            capabilities.destroy = DestroyGrade::Requested;
        }
        Arc::new(capabilities)
    }

    async fn health(&self) -> Result<()> {
        match self.fault {
            Fault::Unhealthy => Err(Error::new(ErrorKind::Unavailable, "be healthy", "never")),
            _ => self.toy.health().await,
        }
    }

    async fn create(&self, mut spec: SandboxSpec) -> Result<Box<dyn Sandbox>> {
        self.fault.change(&mut spec.limits);
        match self.fault {
            Fault::AnyLanguage => spec.language = Language::new("acts"),
            Fault::AnyNetwork => spec.network = NetworkPolicy::None,
            Fault::NeverCloses if self.shared.closed.load(Ordering::Acquire) => {
                let limits = spec.limits;
                let inner = Toy::default().create(spec).await?;
                return Ok(self.wrap(inner, limits));
            }
            Fault::ShutdownEndsNothing if self.shared.closed.load(Ordering::Acquire) => {
                let message = "the provider is shut down";
                return Err(Error::new(ErrorKind::Unavailable, "create a sandbox", message));
            }
            _ => {}
        }
        let limits = spec.limits;
        let inner = self.toy.create(spec).await?;
        Ok(self.wrap(inner, limits))
    }

    async fn shutdown(&self) -> Result<()> {
        self.shared.closed.store(true, Ordering::Release);
        match self.fault {
            Fault::ShutdownEndsNothing => Ok(()),
            _ => self.toy.shutdown().await,
        }
    }
}

impl Broken {
    fn wrap(&self, inner: Box<dyn Sandbox>, limits: Limits) -> Box<dyn Sandbox> {
        let id = if self.fault == Fault::OneId { "toy" } else { inner.id().as_str() };
        let mut isolation = inner.isolation().clone();
        if self.fault == Fault::Downgrades {
            isolation.level = IsolationLevel::None;
        }
        Box::new(BrokenSandbox {
            id: SandboxId::new(id),
            isolation,
            inner: Some(inner),
            toy: Arc::clone(&self.toy),
            fault: self.fault,
            shared: Arc::clone(&self.shared),
            limits,
            unread: None,
            code: String::new(),
        })
    }
}

/// A sandbox of it.
#[derive(Debug)]
struct BrokenSandbox {
    id: SandboxId,
    isolation: IsolationReport,
    inner: Option<Box<dyn Sandbox>>,
    toy: Arc<Toy>,
    /// What it was created with.
    limits: Limits,
    fault: Fault,
    shared: Arc<Shared>,
    /// Fires when the reader has taken the end.
    unread: Option<CancellationToken>,
    /// The code, where `Debug` shows it.
    code: String,
}

impl BrokenSandbox {
    fn inner(&mut self) -> Result<&mut Box<dyn Sandbox>> {
        let gone = || Error::new(ErrorKind::Internal, "execute the program", "no sandbox");
        self.inner.as_mut().ok_or_else(gone)
    }
}

#[async_trait]
impl Sandbox for BrokenSandbox {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    fn isolation(&self) -> &IsolationReport {
        &self.isolation
    }

    fn is_ready(&self) -> bool {
        match self.fault {
            Fault::AlwaysReady => true,
            Fault::NeverReady => false,
            _ => self.inner.as_ref().is_some_and(|inner| inner.is_ready()),
        }
    }

    async fn execute(
        &mut self,
        mut request: ExecuteRequest,
        mut cancel: CancellationToken,
    ) -> Result<EventStream> {
        let fault = self.fault;
        let acts: Vec<Act> = serde_json::from_str(request.code.as_str()).unwrap_or_default();
        fault.change(&mut request.limits);
        match fault {
            Fault::LogsCode => {
                tracing::info!(code = request.code.as_str(), ?request, "runs a program");
            }
            Fault::DebugTells => self.code = request.code.as_str().to_owned(),
            Fault::IgnoresCancel => cancel = CancellationToken::new(),
            Fault::KeepsItsLimits => {
                let Limits { wall, output, .. } = self.limits;
                request.limits = Limits { wall, output, ..request.limits };
            }
            Fault::LosesArguments => request.arguments = ampoule_core::Arguments::none(),
            Fault::RunsTwice => {
                let spec = request.spec();
                self.inner = Some(self.toy.create(spec).await?);
            }
            _ => {}
        }
        let code = request.code.as_str().to_owned();
        let inner = self.inner()?.execute(request, cancel).await.map_err(|error| match fault {
            Fault::RefusalTells => Error::new(error.kind(), "execute the program", code),
            _ => error,
        })?;
        let distortion = Distortion {
            fault,
            acts,
            shared: Arc::clone(&self.shared),
            machine: Arc::clone(&self.toy.machine),
            stdout: String::new(),
            stderr: String::new(),
        };
        let taken = CancellationToken::new();
        self.unread = Some(taken.clone());
        let guard = taken.drop_guard();
        if fault == Fault::IgnoresLeaving {
            return Ok(detached(inner, distortion));
        }
        let state = (inner, distortion, VecDeque::new(), guard);
        Ok(Box::pin(stream::unfold(
            state,
            |(mut inner, mut distortion, mut waiting, guard)| async {
                loop {
                    if let Some(item) = waiting.pop_front() {
                        return Some((item, (inner, distortion, waiting, guard)));
                    }
                    let item = inner.next().await?;
                    waiting.extend(distortion.of(item));
                }
            },
        )))
    }

    async fn destroy(mut self: Box<Self>) -> Result<()> {
        if let (Fault::DestroyWaits, Some(unread)) = (self.fault, self.unread.take()) {
            unread.cancelled().await;
        }
        match self.inner.take() {
            Some(inner) => inner.destroy().await,
            None => Ok(()),
        }
    }
}

impl Drop for BrokenSandbox {
    fn drop(&mut self) {
        if self.fault == Fault::LeavesSandboxes {
            std::mem::forget(self.inner.take());
        }
    }
}

/// A run that goes on though nobody reads: its events are read by a task of its own.
fn detached(mut inner: EventStream, mut distortion: Distortion) -> EventStream {
    let (events, received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(item) = inner.next().await {
            for item in distortion.of(item) {
                let _ = events.send(item);
            }
        }
    });
    Box::pin(stream::unfold(received, |mut received| async {
        received.recv().await.map(|item| (item, received))
    }))
}

/// What makes other events of the toy's.
struct Distortion {
    fault: Fault,
    acts: Vec<Act>,
    shared: Arc<Shared>,
    machine: Arc<Machine>,
    stdout: String,
    stderr: String,
}

const FORGED: &str = "\"forged\"";

fn value(json: &str) -> Option<Result<Event>> {
    let value = RawValue::from_string(json.to_owned()).ok()?;
    Some(Ok(Event::Value(value)))
}

impl Distortion {
    fn children(&self) -> impl Iterator<Item = String> {
        self.acts.iter().filter_map(|act| match act {
            Act::Child(word) => Some(word.clone()),
            _ => None,
        })
    }

    fn of(&mut self, item: Result<Event>) -> Vec<Result<Event>> {
        match item {
            Ok(Event::Stdout(text)) => self.output(text, Event::Stdout),
            Ok(Event::Stderr(text)) => self.output(text, Event::Stderr),
            Ok(Event::Value(given)) => self.value(given),
            Ok(Event::Artifact(file)) => self.artifact(file),
            Ok(Event::Finished(end)) => self.end(*end),
            Err(_) if self.fault == Fault::HidesItsFailure => Vec::new(),
            Err(error) => vec![Err(error)],
        }
    }

    fn output(&mut self, text: String, event: fn(String) -> Event) -> Vec<Result<Event>> {
        let is_error = matches!(event(String::new()), Event::Stderr(_));
        if is_error { &mut self.stderr } else { &mut self.stdout }.push_str(&text);
        match self.fault {
            Fault::SwallowsOutput => Vec::new(),
            Fault::Garbles => {
                let ascii = |c: char| if c.is_ascii() && c != '\0' { c } else { '?' };
                vec![Ok(event(text.chars().map(ascii).collect()))]
            }
            Fault::MixesOutput => {
                let earlier = std::mem::replace(&mut *lock(&self.shared.last_output), text);
                vec![Ok(event(earlier))]
            }
            _ => vec![Ok(event(text))],
        }
    }

    fn value(&mut self, given: Box<RawValue>) -> Vec<Result<Event>> {
        let seeks = self.acts.iter().find_map(|act| match act {
            Act::ReturnTraces(word) => Some(word),
            _ => None,
        });
        let shown = seeks.is_some_and(|word| lock(&self.shared.traces).contains(word));
        let other = match self.fault {
            Fault::SharesTraces if shown => value("[\"file\",\"lock\"]"),
            // Its own traces a run sees as they are.
            Fault::SharesDevices if shown && given.get() == "[]" => {
                value("[\"lock on /dev/null\"]")
            }
            Fault::RoundsValue => value(&given.get().replace(".5", "")),
            Fault::ValueFromStdout if self.stdout.contains("forged") => value(FORGED),
            _ => None,
        };
        vec![other.unwrap_or(Ok(Event::Value(given)))]
    }

    fn artifact(&self, file: Artifact) -> Vec<Result<Event>> {
        let found = (self.fault == Fault::ValueFromArtifact).then(|| value(FORGED)).flatten();
        found.into_iter().chain([Ok(Event::Artifact(file))]).collect()
    }

    fn end(&mut self, mut end: Finished) -> Vec<Result<Event>> {
        let mut before = Vec::new();
        let mut after = Vec::new();
        match self.fault {
            Fault::NoEnd => return Vec::new(),
            Fault::TwoEnds => before.push(Ok(Event::Finished(Box::new(end.clone())))),
            Fault::TalksAfterTheEnd => after.push(Ok(Event::Stdout("bye".to_owned()))),
            Fault::FailureIsAnError if !end.outcome.is_success() => {
                return vec![Err(Error::new(ErrorKind::Internal, "run the program", "it failed"))];
            }
            Fault::AlwaysSucceeds => end.outcome = Outcome::Succeeded,
            Fault::SwallowsOutput if end.outcome.is_success() => {
                before.push(Ok(Event::Stdout(std::mem::take(&mut self.stdout))));
                before.push(Ok(Event::Stderr(std::mem::take(&mut self.stderr))));
            }
            Fault::HidesLoss => end.evidence.output.discarded = 0,
            Fault::CancelLeavesChildren if end.outcome == Outcome::Cancelled => {
                self.machine.processes().extend(self.children());
            }
            Fault::LeavesProcesses => self.machine.processes().extend(self.children()),
            Fault::ExitCodeDecides => {
                let limit = match end.evidence.exit {
                    Some(ampoule_core::Exit::Code(124)) => Some(LimitKind::Time),
                    Some(ampoule_core::Exit::Code(137)) => Some(LimitKind::Memory),
                    _ => None,
                };
                end.outcome = limit.map_or(end.outcome, |limit| Outcome::LimitExceeded { limit });
            }
            Fault::StderrDecides if self.stderr.contains("Operation not permitted") => {
                let what = vec![Denial::Network { packets: 1 }];
                end.outcome = Outcome::Denied { what };
            }
            Fault::ValueFromStdout
                if !end.outcome.is_success() && self.stdout.contains("forged") =>
            {
                before.extend(value(FORGED));
                end.outcome = Outcome::Succeeded;
            }
            Fault::ValueFromAnyDescriptor
                if self.acts.iter().any(|act| matches!(act, Act::Descriptors(_))) =>
            {
                before.extend(value(FORGED));
                end.outcome = Outcome::Succeeded;
            }
            Fault::ArtifactFromStdout if self.stdout.contains("artifacts/") => {
                let name = "forged.csv".to_owned();
                before.push(Ok(Event::Artifact(Artifact { name, content: Vec::new() })));
            }
            Fault::SharesTraces | Fault::SharesDevices => {
                let left = self.acts.iter().filter_map(|act| match act {
                    Act::LeaveTraces(word) => Some(word.clone()),
                    _ => None,
                });
                lock(&self.shared.traces).extend(left);
            }
            _ => {}
        }
        before.push(Ok(Event::Finished(Box::new(end))));
        before.append(&mut after);
        before
    }
}
