//! A sandbox of the fake, and the run of a script in it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ampoule_core::{
    Artifact, CancellationToken, DeniedCall, Error, ErrorKind, Event, EventStream, Evidence,
    ExecuteRequest, Exit, Finished, FrameEvidence, IsolationLevel, IsolationReport, Meters,
    OnOutputLimit, Result, Sandbox, SandboxId, SandboxSpec, SkippedArtifact, StopReason, Usage,
    Verdict, verdict,
};
use async_trait::async_trait;
use futures_util::stream;
use tokio::{sync::watch, time::Instant};

use super::{Census, MemoryConfig, Script, Step, Stop, error};
use crate::gate;

/// A place in which a script is followed, once.
#[derive(Debug)]
pub struct MemorySandbox {
    id: SandboxId,
    config: MemoryConfig,
    spec: SandboxSpec,
    isolation: IsolationReport,
    used: bool,
    census: Arc<watch::Sender<Census>>,
    closing: CancellationToken,
}

impl MemorySandbox {
    pub(super) fn new(
        id: SandboxId,
        config: MemoryConfig,
        spec: SandboxSpec,
        census: Arc<watch::Sender<Census>>,
        closing: CancellationToken,
    ) -> Self {
        census.send_modify(|census| {
            census.created += 1;
            census.live += 1;
        });
        let isolation = IsolationReport {
            level: IsolationLevel::None,
            enforced: Vec::new(),
            missing: Vec::new(),
            meters: Meters::None,
            network: spec.network,
        };
        Self { id, config, spec, isolation, used: false, census, closing }
    }
}

impl Drop for MemorySandbox {
    fn drop(&mut self) {
        self.census.send_modify(|census| census.live -= 1);
    }
}

#[async_trait]
impl Sandbox for MemorySandbox {
    fn id(&self) -> &SandboxId {
        &self.id
    }

    fn isolation(&self) -> &IsolationReport {
        &self.isolation
    }

    fn is_ready(&self) -> bool {
        let is_gone = self.config.is_gone.as_ref().is_some_and(|is_gone| is_gone(&self.id));
        !self.used && !self.closing.is_cancelled() && !is_gone
    }

    async fn execute(
        &mut self,
        request: ExecuteRequest,
        cancel: CancellationToken,
    ) -> Result<EventStream> {
        gate::check_request(&self.spec, &request)?;
        if std::mem::replace(&mut self.used, true) {
            return Err(error::second_execution());
        }
        let Script(steps) = (self.config.behaviour)(&request)?;
        if let Some(Step::Refuse(kind, message)) = steps.first() {
            return Err(error::scripted(kind, message.clone()));
        }
        let census = Arc::clone(&self.census);
        let run = Run::new(request, steps, cancel, census, self.closing.clone());
        Ok(Box::pin(stream::unfold(run, |mut run| async move {
            run.next().await.map(|event| (event, run))
        })))
    }

    async fn destroy(self: Box<Self>) -> Result<()> {
        tokio::time::sleep(self.config.destroy_time).await;
        self.census.send_modify(|census| census.destroyed += 1);
        Ok(())
    }
}

/// A script being followed. The consumer of the stream moves it: nothing goes on behind its back.
struct Run {
    request: ExecuteRequest,
    steps: VecDeque<Step>,
    cancel: CancellationToken,
    began: Instant,
    evidence: Evidence,
    skipped: Vec<SkippedArtifact>,
    unseen: bool,
    over: bool,
    census: Arc<watch::Sender<Census>>,
    closing: CancellationToken,
}

/// What one step gives.
enum Given {
    Nothing,
    Event(Event),
    Failure(Error),
    NoEnd,
}

impl Run {
    fn new(
        request: ExecuteRequest,
        steps: Vec<Step>,
        cancel: CancellationToken,
        census: Arc<watch::Sender<Census>>,
        closing: CancellationToken,
    ) -> Self {
        let mut evidence = Evidence::default();
        evidence.memory.limit = request.limits.memory;
        evidence.processes.limit = request.limits.processes;
        evidence.cpu.limit_us =
            request.limits.cpu.map(|cpu| u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX));
        census.send_modify(|census| census.running += 1);
        Self {
            request,
            steps: steps.into(),
            cancel,
            began: Instant::now(),
            evidence,
            skipped: Vec::new(),
            unseen: false,
            over: false,
            census,
            closing,
        }
    }

    /// The next event; `None` after the end.
    async fn next(&mut self) -> Option<Result<Event>> {
        if self.over {
            return None;
        }
        loop {
            if self.closing.is_cancelled() {
                self.evidence.stopped = Some(StopReason::Platform);
            } else if self.cancel.is_cancelled() {
                self.evidence.stopped = Some(StopReason::Cancelled);
            }
            let step = match self.evidence.stopped {
                None => self.steps.pop_front(),
                Some(_) => None,
            };
            let Some(step) = step else {
                self.over = true;
                return Some(self.finish());
            };
            match self.follow(step).await {
                Given::Nothing => {}
                Given::Event(event) => return Some(Ok(event)),
                Given::Failure(error) => {
                    self.over = true;
                    return Some(Err(error.after_start()));
                }
                Given::NoEnd => {
                    self.over = true;
                    return None;
                }
            }
        }
    }

    async fn follow(&mut self, step: Step) -> Given {
        let evidence = &mut self.evidence;
        match step {
            Step::Stdout(text) => return self.output(&text, false),
            Step::Stderr(text) => return self.output(&text, true),
            Step::Value(value) => {
                evidence.frame = FrameEvidence::Value;
                return Given::Event(Event::Value(value));
            }
            Step::Arguments => {
                evidence.frame = FrameEvidence::Value;
                return Given::Event(Event::Value(self.request.arguments.as_raw().to_owned()));
            }
            Step::Artifact(name, text) => return artifact(name, text.into_bytes()),
            Step::ArtifactOfSize(name, size) => return artifact(name, vec![b'x'; size]),
            Step::Skip(name, reason) => self.skipped.push(SkippedArtifact { name, reason }),
            Step::SleepMs(milliseconds) => {
                self.wait(Some(Duration::from_millis(milliseconds))).await;
            }
            Step::Hang => self.wait(None).await,
            Step::Error(error) => evidence.frame = FrameEvidence::Error(error),
            Step::Malformed(what) => evidence.frame = FrameEvidence::Malformed(what),
            Step::Exit(code) => evidence.exit = Some(Exit::Code(code)),
            Step::Signal(signal) => evidence.exit = Some(Exit::Signal(signal)),
            Step::Unseen => self.unseen = true,
            Step::Stopped(Stop::Platform) => evidence.stopped = Some(StopReason::Platform),
            Step::Stopped(Stop::Wall) => evidence.stopped = Some(StopReason::Wall),
            Step::Stopped(Stop::Cpu) => evidence.stopped = Some(StopReason::Cpu),
            Step::Stopped(Stop::Output) => evidence.stopped = Some(StopReason::Output),
            Step::OomKills(count) => evidence.memory.oom_kills = count,
            Step::MemoryWatch => evidence.stopped = Some(StopReason::Memory),
            Step::MemoryPeak(bytes) => evidence.memory.peak = Some(bytes),
            Step::CpuUs(used) => evidence.cpu.used_us = Some(used),
            Step::ForksRefused(count) => evidence.processes.refused = count,
            Step::DiskFull => evidence.disk.full = true,
            Step::Denied(name, count) => {
                evidence.denied.push(DeniedCall { name, count, probe: false })
            }
            Step::Unroutable(packets) => evidence.network.unroutable = packets,
            Step::Fail(kind, message) | Step::Refuse(kind, message) => {
                return Given::Failure(error::scripted(&kind, message));
            }
            Step::Panic => panic!("the script says so"),
            Step::Vanish => return Given::NoEnd,
        }
        Given::Nothing
    }

    /// Waits, unless the provider shuts down, the caller withdraws or the wall clock runs out first.
    async fn wait(&mut self, time: Option<Duration>) {
        let deadline = self.began + self.request.limits.wall;
        let end = time.map_or(deadline, |time| (Instant::now() + time).min(deadline));
        tokio::select! {
            biased;
            () = self.closing.cancelled() => {}
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep_until(end) => {
                if end == deadline {
                    self.evidence.stopped = Some(StopReason::Wall);
                }
            }
        }
    }

    /// Keeps what fits under the output limit, whole characters only.
    fn output(&mut self, text: &str, is_stderr: bool) -> Given {
        let counts = &mut self.evidence.output;
        let left = self.request.limits.output.saturating_sub(counts.stdout + counts.stderr);
        let kept = text.floor_char_boundary(usize::try_from(left).unwrap_or(usize::MAX));
        let (kept, lost) = text.split_at(kept);
        *(if is_stderr { &mut counts.stderr } else { &mut counts.stdout }) += kept.len() as u64;
        counts.discarded += lost.len() as u64;
        if !lost.is_empty() && self.request.limits.on_output == OnOutputLimit::Stop {
            self.evidence.stopped = Some(StopReason::Output);
        }
        match (kept, is_stderr) {
            ("", _) => Given::Nothing,
            (kept, false) => Given::Event(Event::Stdout(kept.to_owned())),
            (kept, true) => Given::Event(Event::Stderr(kept.to_owned())),
        }
    }

    fn finish(&mut self) -> Result<Event> {
        let mut evidence = std::mem::take(&mut self.evidence);
        let own_code = i32::from(matches!(evidence.frame, FrameEvidence::Error(_)));
        if !self.unseen {
            evidence.exit.get_or_insert(match evidence.stopped {
                None | Some(StopReason::Result) => Exit::Code(own_code),
                Some(_) => Exit::Signal(9),
            });
        }
        let usage = Usage {
            wall_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            cpu_us: evidence.cpu.used_us,
            memory_peak: evidence.memory.peak,
            processes_peak: evidence.processes.peak,
        };
        match verdict(&evidence) {
            Verdict::Ended(outcome) => Ok(Event::Finished(Box::new(Finished {
                outcome,
                evidence,
                usage,
                skipped_artifacts: std::mem::take(&mut self.skipped),
            }))),
            Verdict::PlatformFailed { reason } => {
                Err(Error::new(ErrorKind::Internal, "run the program", reason).after_start())
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.census.send_modify(|census| census.running -= 1);
    }
}

fn artifact(name: String, content: Vec<u8>) -> Given {
    Given::Event(Event::Artifact(Artifact { name, content }))
}

#[cfg(test)]
mod tests {
    use ampoule_core::{
        Arguments, Code, Collector, ExecutionId, ExecutionResult, Language, LimitKind, Limits,
        NetworkPolicy, Outcome, Profile, Provider, ProviderExt, TrustGroup,
    };

    use super::{super::Memory, *};

    fn request(code: &str, limits: Limits) -> ExecuteRequest {
        ExecuteRequest {
            id: ExecutionId::new("test"),
            language: Language::new("python"),
            code: Code::new(code).unwrap(),
            arguments: Arguments::parse(r#"{"n": 12345678901234567890123}"#).unwrap(),
            limits,
            network: NetworkPolicy::None,
            profile: Profile::Fast,
            trust_group: TrustGroup::default(),
        }
    }

    async fn run(code: &str, limits: Limits) -> ExecutionResult {
        let memory = Memory::default();
        let result = memory.run(request(code, limits), CancellationToken::new()).await.unwrap();
        let census = memory.census();
        assert_eq!((census.created, census.destroyed, census.live, census.running), (1, 1, 0, 0));
        result
    }

    #[tokio::test]
    async fn a_program_that_is_no_script_gives_its_arguments_back() {
        let result = run("def main(**arguments): return arguments", Limits::default()).await;
        assert_eq!(result.value.unwrap().get(), r#"{"n": 12345678901234567890123}"#);
        assert_eq!(result.finished.outcome, Outcome::Succeeded);
    }

    #[tokio::test]
    async fn the_verdict_comes_from_the_evidence_of_the_script() {
        let result = run(r#"[{"oom_kills": 1}, {"exit": 0}]"#, Limits::default()).await;
        assert_eq!(result.finished.outcome, Outcome::LimitExceeded { limit: LimitKind::Memory });
        let result = run(r#"[{"stdout": "x"}, {"exit": 3}]"#, Limits::default()).await;
        assert_eq!(result.stdout, "x");
        let Outcome::Failed { exit_code, .. } = result.finished.outcome else { panic!() };
        assert_eq!(exit_code, Some(3));
    }

    #[tokio::test]
    async fn a_hanging_program_meets_its_wall_clock() {
        let limits = Limits { wall: Duration::from_millis(10), ..Limits::default() };
        let result = run(r#"[{"stderr": "kept"}, "hang"]"#, limits).await;
        assert_eq!(result.stderr, "kept");
        assert_eq!(result.finished.outcome, Outcome::LimitExceeded { limit: LimitKind::Time });
    }

    #[tokio::test]
    async fn output_beyond_the_limit_is_discarded_and_counted() {
        let limits = Limits { output: 4, ..Limits::default() };
        let script = r#"[{"stdout": "aéé"}, {"stderr": "b"}, {"value": 1}]"#;
        let result = run(script, limits).await;
        assert_eq!((result.stdout.as_str(), result.stderr.as_str()), ("aé", "b"));
        assert_eq!(result.finished.evidence.output.discarded, 2);
        let limits = Limits { on_output: OnOutputLimit::Stop, ..limits };
        let result = run(script, limits).await;
        assert_eq!(result.finished.outcome, Outcome::LimitExceeded { limit: LimitKind::Output });
    }

    #[tokio::test]
    async fn a_cancelled_program_ends_so_and_a_second_execution_is_refused() {
        let memory = Memory::default();
        let request = request(r#"["hang"]"#, Limits::default());
        let mut sandbox = memory.create(request.spec()).await.unwrap();
        let cancel = CancellationToken::new();
        let events = sandbox.execute(request.clone(), cancel.clone()).await.unwrap();
        cancel.cancel();
        let result = Collector::collect(events).await.unwrap();
        assert_eq!(result.finished.outcome, Outcome::Cancelled);
        let second = sandbox.execute(request, cancel).await.err().unwrap();
        assert_eq!(second.kind(), ErrorKind::Unsupported);
        drop(sandbox);
        let census = memory.census();
        assert_eq!((census.live, census.destroyed), (0, 0));
    }

    #[tokio::test]
    async fn our_failures_are_errors() {
        let memory = Memory::default();
        for (script, started) in [
            (r#"[{"stdout": "x"}, {"fail": ["unavailable", "gone"]}]"#, true),
            (r#"[{"refuse": ["unavailable", "gone"]}]"#, false),
            (r#"["unseen"]"#, true),
            (r#"["vanish"]"#, true),
            ("[nonsense", false),
        ] {
            let request = request(script, Limits::default());
            let error = memory.run(request, CancellationToken::new()).await.unwrap_err();
            assert_eq!(error.program_may_have_started(), started, "{script}: {error}");
        }
        assert_eq!(memory.census().live, 0);
        memory.shutdown().await.unwrap();
        let request = request("x", Limits::default());
        let refused = memory.create(request.spec()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
    }
}
