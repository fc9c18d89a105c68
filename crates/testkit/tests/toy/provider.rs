//! A whole provider, as small as the laws allow: a machine that is a list of processes, and a
//! language whose programs are lists of [`Act`].
//!
//! ```text
//! Toy --create--> ToySandbox --execute--> Run (a task) --end, cancel, wall, dropped--> Finished
//! ```
//!
//! Its walls are of paper. It is here to be copied, and to be broken by `broken.rs`.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ampoule_core::{
    Artifact, CancelGrade, CancellationToken, Capabilities, DestroyGrade, Error, ErrorKind, Event,
    EventStream, Evidence, EvidenceGrade, ExecuteRequest, Exit, Finished, FrameEvidence,
    IsolationLevel, IsolationReport, Language, Limits, Meters, NetworkPolicy, OnOutputLimit,
    ProgramError, Provider, ProviderInfo, RawValue, Result, Sandbox, SandboxId, SandboxSpec,
    StopReason, Usage, Utf8Decoder, ValueChannel, Verdict, verdict,
};
use ampoule_testkit::conformance::{Act, Oracle, Programs};
use async_trait::async_trait;
use futures_util::stream;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};

/// What the toy runs on, and what its oracle looks at.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    processes: Mutex<Vec<String>>,
    sandboxes: AtomicU64,
}

impl Machine {
    pub(crate) fn processes(&self) -> MutexGuard<'_, Vec<String>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Oracle for Machine {
    fn processes_with(&self, word: &str) -> Option<Vec<String>> {
        let processes = self.processes();
        Some(processes.iter().filter(|process| process.contains(word)).cloned().collect())
    }

    fn left_over(&self) -> Vec<String> {
        let sandboxes = self.sandboxes.load(Ordering::Acquire);
        let mut left = self.processes().clone();
        left.extend((0..sandboxes).map(|_| "a sandbox".to_owned()));
        left
    }
}

/// Programs of the toy's language: JSON lists of acts.
#[derive(Debug)]
pub(crate) struct ActLists;

impl Programs for ActLists {
    fn knows(&self, language: &Language) -> bool {
        language.as_str() == "acts"
    }

    fn statements(&self, _: &Language, act: &Act) -> Option<String> {
        serde_json::to_string(act).ok()
    }

    fn program(&self, _: &Language, statements: &[String]) -> String {
        format!("[{}]", statements.join(","))
    }
}

/// The provider.
#[derive(Debug, Default)]
pub(crate) struct Toy {
    pub(crate) machine: Arc<Machine>,
    created: AtomicU64,
    closing: CancellationToken,
}

#[async_trait]
impl Provider for Toy {
    fn info(&self) -> ProviderInfo {
        ProviderInfo { provider_type: "toy", name: "toy".to_owned() }
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::new(Capabilities {
            languages: vec![Language::new("acts")],
            templates: Vec::new(),
            isolation: IsolationLevel::Process,
            evidence: EvidenceGrade::Kernel,
            value_channel: ValueChannel::Separate,
            cancel: CancelGrade::Tree,
            destroy: DestroyGrade::Confirmed,
            output_on_failure: true,
            stream_output: true,
            artifacts: true,
            networks: vec![NetworkPolicy::None],
            network_hurdle: None,
            max_wall: Duration::from_secs(60),
            max_memory: 1 << 30,
            min_memory: [(Language::new("acts"), 1 << 20)].into(),
        })
    }

    async fn health(&self) -> Result<()> {
        Ok(())
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Box<dyn Sandbox>> {
        if self.closing.is_cancelled() {
            return refuse(ErrorKind::Unavailable, "the provider is shut down");
        }
        check(&self.capabilities(), &spec)?;
        self.machine.sandboxes.fetch_add(1, Ordering::AcqRel);
        let number = self.created.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(ToySandbox {
            id: SandboxId::new(format!("toy-{number}")),
            isolation: IsolationReport {
                level: IsolationLevel::Process,
                enforced: Vec::new(),
                missing: Vec::new(),
                meters: Meters::None,
                network: spec.network,
            },
            spec,
            used: false,
            abandon: self.closing.child_token(),
            run: None,
            machine: Arc::clone(&self.machine),
        }))
    }

    async fn shutdown(&self) -> Result<()> {
        self.closing.cancel();
        Ok(())
    }
}

fn refuse<T>(kind: ErrorKind, message: impl Into<String>) -> Result<T> {
    Err(Error::new(kind, "create a sandbox", message))
}

/// The gate: what is not declared is refused, with the kind and the field.
fn check(capabilities: &Capabilities, spec: &SandboxSpec) -> Result<()> {
    let SandboxSpec { language, limits, network, .. } = spec;
    if !capabilities.languages.contains(language) {
        return refuse(ErrorKind::Unsupported, format!("language `{language}` is not available"));
    }
    if !capabilities.networks.contains(network) {
        return refuse(ErrorKind::Unsupported, format!("`network` cannot be `{network:?}`"));
    }
    if limits.wall.is_zero() || limits.wall > capabilities.max_wall {
        return refuse(ErrorKind::InvalidRequest, format!("`timeout` is {:?}", limits.wall));
    }
    if !(capabilities.least_memory(language)..=capabilities.max_memory).contains(&limits.memory) {
        return refuse(ErrorKind::InvalidRequest, format!("`memory` is {}", limits.memory));
    }
    Ok(())
}

/// One sandbox.
#[derive(Debug)]
struct ToySandbox {
    id: SandboxId,
    spec: SandboxSpec,
    isolation: IsolationReport,
    used: bool,
    abandon: CancellationToken,
    run: Option<JoinHandle<()>>,
    machine: Arc<Machine>,
}

#[async_trait]
impl Sandbox for ToySandbox {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    fn isolation(&self) -> &IsolationReport {
        &self.isolation
    }

    fn is_ready(&self) -> bool {
        !self.used && !self.abandon.is_cancelled()
    }

    async fn execute(
        &mut self,
        request: ExecuteRequest,
        cancel: CancellationToken,
    ) -> Result<EventStream> {
        let error = |kind, message| Err(Error::new(kind, "execute the program", message));
        // Each made from the bare template: there is no other here.
        if request.spec().built_in() != self.spec.built_in() {
            let message = "`language`, `limits`, `network`, `profile` or `trust_group` differ";
            return error(ErrorKind::InvalidRequest, message);
        }
        if std::mem::replace(&mut self.used, true) {
            return error(ErrorKind::Unsupported, "a sandbox runs one program and no second");
        }
        let Ok(acts) = serde_json::from_str(request.code.as_str()) else {
            return error(ErrorKind::InvalidRequest, "the program is no list of acts");
        };
        let (events, received) = mpsc::unbounded_channel();
        let run = Run {
            evidence: evidence(&request.limits),
            request,
            events,
            decoder: Utf8Decoder::default(),
            at_exit: String::new(),
            words: Vec::new(),
            machine: Arc::clone(&self.machine),
        };
        self.run = Some(tokio::spawn(run.drive(acts, cancel, self.abandon.clone())));
        Ok(Box::pin(stream::unfold(received, |mut received| async {
            received.recv().await.map(|event| (event, received))
        })))
    }

    async fn destroy(mut self: Box<Self>) -> Result<()> {
        self.abandon.cancel();
        if let Some(run) = self.run.take() {
            run.await.map_err(|error| {
                Error::new(ErrorKind::Internal, "destroy a sandbox", "its run panicked")
                    .with_source(error)
            })?;
        }
        Ok(())
    }
}

impl Drop for ToySandbox {
    fn drop(&mut self) {
        self.abandon.cancel();
        self.machine.sandboxes.fetch_sub(1, Ordering::AcqRel);
    }
}

fn evidence(limits: &Limits) -> Evidence {
    let mut evidence = Evidence::default();
    evidence.memory.limit = limits.memory;
    evidence.processes.limit = limits.processes;
    evidence
}

/// A program that runs.
struct Run {
    request: ExecuteRequest,
    events: mpsc::UnboundedSender<Result<Event>>,
    evidence: Evidence,
    decoder: Utf8Decoder,
    at_exit: String,
    /// The words of its children and its traces.
    words: Vec<String>,
    machine: Arc<Machine>,
}

/// Whether a program goes on after an act.
enum Next {
    Act,
    Ended,
    Stopped(StopReason),
    PlatformFailed,
}

impl Run {
    async fn drive(
        mut self,
        acts: Vec<Act>,
        cancel: CancellationToken,
        abandon: CancellationToken,
    ) {
        let began = Instant::now();
        let (wall, reader) = (self.request.limits.wall, self.events.clone());
        let next = tokio::select! {
            biased;
            () = abandon.cancelled() => Next::Stopped(StopReason::Cancelled),
            () = reader.closed() => Next::Stopped(StopReason::Cancelled),
            () = cancel.cancelled() => Next::Stopped(StopReason::Cancelled),
            () = sleep(wall) => Next::Stopped(StopReason::Wall),
            next = self.follow(acts) => next,
        };
        // The end of its processes comes before any word of the end.
        self.machine.processes().retain(|process| !self.words.contains(process));
        let rest = self.decoder.finish();
        self.tell(Event::Stdout(rest));
        self.evidence.exit.get_or_insert(Exit::Signal(9));
        match next {
            Next::Stopped(reason) => self.evidence.stopped = Some(reason),
            Next::PlatformFailed => self.evidence.stopped = Some(StopReason::Platform),
            Next::Act | Next::Ended => {}
        }
        let end = match verdict(&self.evidence) {
            Verdict::Ended(outcome) => Ok(Event::Finished(Box::new(Finished {
                outcome,
                evidence: std::mem::take(&mut self.evidence),
                usage: Usage {
                    wall_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
                    ..Usage::default()
                },
                skipped_artifacts: Vec::new(),
            }))),
            Verdict::PlatformFailed { reason } => {
                Err(Error::new(ErrorKind::Internal, "run the program", reason).after_start())
            }
        };
        let _ = self.events.send(end);
    }

    async fn follow(&mut self, acts: Vec<Act>) -> Next {
        for act in acts {
            match self.act(act).await {
                Next::Act => {}
                other => return other,
            }
        }
        Next::Ended
    }

    async fn act(&mut self, act: Act) -> Next {
        match act {
            Act::Stdout(text) => return self.write(text.as_bytes(), false),
            Act::Stderr(text) => return self.write(text.as_bytes(), true),
            Act::Bytes(bytes) => return self.write(&bytes, false),
            Act::Pause(milliseconds) => sleep(Duration::from_millis(milliseconds)).await,
            Act::Hang => std::future::pending().await,
            Act::Return(json) => return self.value(json),
            Act::ReturnArguments => {
                return self.value(self.request.arguments.as_raw().get().to_owned());
            }
            Act::Raise(message) => {
                let kind = "Error".to_owned();
                self.evidence.frame =
                    FrameEvidence::Error(ProgramError { kind, message, line: None });
                return self.exit(1);
            }
            Act::Exit(code) => {
                self.at_exit.clear();
                return self.exit(code);
            }
            Act::Kill(signal) => {
                self.evidence.exit = Some(Exit::Signal(signal));
                return Next::Ended;
            }
            Act::Artifact(name, text) => {
                self.tell(Event::Artifact(Artifact { name, content: text.into_bytes() }));
            }
            Act::Allocate => {
                self.evidence.memory.oom_kills = 1;
                self.evidence.memory.peak = Some(self.request.limits.memory);
                return Next::Ended;
            }
            Act::AtExit(text) => self.at_exit = text,
            Act::Descriptors(_) => {
                self.evidence.frame = FrameEvidence::Malformed("bytes of the program's".to_owned());
            }
            Act::Child(word) => {
                self.machine.processes().push(word.clone());
                self.words.push(word);
            }
            Act::LeaveTraces(word) => self.words.push(word),
            Act::ReturnTraces(word) => {
                let own = self.words.contains(&word);
                let places = if own { r#"["memory","list"]"# } else { "[]" };
                return self.value(places.to_owned());
            }
            Act::FailPlatform => return Next::PlatformFailed,
        }
        Next::Act
    }

    fn value(&mut self, json: String) -> Next {
        let Ok(value) = RawValue::from_string(json) else { return self.exit(1) };
        if self.evidence.frame == FrameEvidence::Absent {
            self.evidence.frame = FrameEvidence::Value;
            self.tell(Event::Value(value));
        }
        self.exit(0)
    }

    fn exit(&mut self, code: i32) -> Next {
        let last = std::mem::take(&mut self.at_exit);
        self.write(last.as_bytes(), false);
        self.evidence.exit = Some(Exit::Code(code));
        Next::Ended
    }

    /// Keeps what fits under the limit of both streams.
    fn write(&mut self, bytes: &[u8], is_error: bool) -> Next {
        let Limits { output, on_output, .. } = self.request.limits;
        let counts = &mut self.evidence.output;
        let left = usize::try_from(output - counts.stdout - counts.stderr).unwrap_or(usize::MAX);
        let (kept, lost) = bytes.split_at(left.min(bytes.len()));
        counts.discarded += lost.len() as u64;
        *(if is_error { &mut counts.stderr } else { &mut counts.stdout }) += kept.len() as u64;
        if is_error {
            self.tell(Event::Stderr(String::from_utf8_lossy(kept).into_owned()));
        } else {
            let text = self.decoder.push(kept);
            self.tell(Event::Stdout(text));
        }
        if !lost.is_empty() && on_output == OnOutputLimit::Stop {
            return Next::Stopped(StopReason::Output);
        }
        Next::Act
    }

    fn tell(&self, event: Event) {
        let is_empty =
            matches!(&event, Event::Stdout(text) | Event::Stderr(text) if text.is_empty());
        if !is_empty {
            // A reader who has left ends the run.
            let _ = self.events.send(Ok(event));
        }
    }
}
