//! One execution: everything that happens between the lease and the end.
//!
//! ```text
//! lease -> request frame -> (stdout | stderr | result | notifications | cancel) -> Ended
//!       -> channels drained -> artifacts -> verdict -> Finished
//! ```
//!
//! The end is the launcher's word that no process is left; only then do the channels close for
//! good, and only then is anything concluded.

use std::{
    fs::File,
    io::Read as _,
    os::fd::OwnedFd,
    sync::Mutex,
    time::{Duration, Instant},
};

use ampoule_core::{
    Artifact, CancellationToken, CpuEvidence, DeniedCall, DiskEvidence, Error, ErrorKind, Event,
    Evidence, ExecuteRequest, Exit, Finished, FrameEvidence, Limits, MemoryEvidence, Meters,
    NetworkEvidence, OnOutputLimit, OutputEvidence, ProcessEvidence, Protocol, RawValue, Result,
    SkippedArtifact, StopReason, Usage, Verdict, verdict,
};
use ampoule_jail::{Command, Counters, FileNote, Listener, Report, WaitStatus};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, unix::AsyncFd},
    net::unix::pipe::{Receiver, Sender},
    sync::mpsc,
};

use super::{
    channels::{Channels, RuntimeTraits, next_refused},
    error,
    frame::{self, FrameReader},
    link::SlotHandle,
    output::{Budget, Keeper},
};

/// Denied calls that are recorded; then the listener is closed and the kernel answers ENOSYS.
const MOST_DENIED: u32 = 64;
const MOST_PROBES: u32 = 4096;
/// The largest artifact, and the most of all together, that is read into memory.
const MAX_ARTIFACT: u64 = 10 << 20;
const MAX_ARTIFACTS_TOTAL: u64 = 100 << 20;
const PIPE_READ: usize = 64 << 10;

/// How much later than the wall clock the launcher's word may come, and how long channels may stay
/// open after a launcher that is gone.
const LATE: Duration = Duration::from_secs(20);
const LINGER: Duration = Duration::from_secs(2);

/// What one execution needs.
pub(super) struct Run {
    pub(super) slot: SlotHandle,
    pub(super) events: mpsc::Sender<Result<Event>>,
    pub(super) limits: Limits,
    pub(super) traits: RuntimeTraits,
    pub(super) meters: Meters,
    pub(super) cancel: CancellationToken,
    pub(super) abandon: CancellationToken,
}

/// The launcher's word on the end.
struct End {
    /// When the result was in, or else the end was told.
    at: Instant,
    status: WaitStatus,
    stopped: Option<StopReason>,
    counters: Counters,
    /// Entries of `artifacts/` that are told next, and those beyond.
    files: u32,
    more: u32,
}

/// What was read while the program ran.
struct Heard {
    frame: FrameEvidence,
    value: Option<Box<RawValue>>,
    output: OutputEvidence,
    denied: Vec<DeniedCall>,
}

impl Run {
    /// Drives the execution to its end and gives the slot back.
    pub(super) async fn drive(
        mut self,
        channels: Channels,
        request: &ExecuteRequest,
    ) -> SlotHandle {
        let last = match self.execute(channels, request).await {
            Ok(finished) => Ok(Event::Finished(Box::new(finished))),
            Err(error) => Err(error),
        };
        // A reader that is gone has withdrawn; a sandbox that goes waits for none.
        send(&self.events, &self.abandon, last).await;
        self.slot
    }

    async fn execute(&mut self, channels: Channels, request: &ExecuteRequest) -> Result<Finished> {
        let nonce = nonce()?;
        let bytes = frame::request(self.traits.protocol, request, &nonce)
            .map_err(error::io("lay out the request"))?;
        let slot = self.slot.number();
        self.slot.stages.resume();
        let started = Instant::now();
        self.slot.send(Command::Lease { slot, wall: self.limits.wall, cpu: self.limits.cpu });
        let (end, mut heard) = self.attend(channels, &bytes, &nonce).await;
        let end = end.ok_or_else(|| error::launcher_lost().after_start())?;
        self.slot.stages.mark("kill_and_reap");
        let (artifacts, skipped_artifacts) = self.collect(&end).await?;
        self.slot.stages.mark("collect");
        let evidence = self.evidence(&end, &heard);
        let outcome = match verdict(&evidence) {
            Verdict::Ended(outcome) => outcome,
            Verdict::PlatformFailed { reason } => {
                return Err(Error::new(ErrorKind::Internal, "execute", reason).after_start());
            }
        };
        if outcome.is_success()
            && let Some(value) = heard.value.take()
        {
            self.tell(Event::Value(value)).await;
        }
        for artifact in artifacts {
            self.tell(Event::Artifact(artifact)).await;
        }
        let usage = Usage {
            wall_us: micros(end.at - started),
            cpu_us: end.counters.cpu_us,
            memory_peak: end.counters.memory_peak,
            processes_peak: end.counters.processes_peak,
        };
        Ok(Finished { outcome, evidence, usage, skipped_artifacts })
    }

    async fn tell(&self, event: Event) {
        send(&self.events, &self.abandon, Ok(event)).await;
    }

    /// Serves every channel until the launcher says that nothing of the run is left.
    async fn attend(
        &mut self,
        channels: Channels,
        request: &[u8],
        nonce: &str,
    ) -> (Option<End>, Heard) {
        let Channels { request: input, stdout, stderr, result, listener } = channels;
        let number = self.slot.number();
        let wall = self.limits.wall;
        let (over, lost) = (CancellationToken::new(), CancellationToken::new());
        let budget = Budget::new(self.limits.output);
        let denied = Mutex::new(Vec::new());
        let (stops, mut stop_queue) = mpsc::unbounded_channel();
        let stop = |reason| {
            let _ = stops.send(reason);
        };
        let output = Output {
            budget: &budget,
            on_limit: self.limits.on_output,
            stop: &stop,
            events: &self.events,
            abandon: &self.abandon,
        };
        let slot = &mut self.slot;
        let (cancel, abandon, events) = (&self.cancel, &self.abandon, &self.events);
        let wait = async {
            let mut withdrawn = false;
            let mut result_at = None;
            let latest = tokio::time::sleep(wall.saturating_add(LATE));
            tokio::pin!(latest);
            let end = loop {
                tokio::select! {
                    report = slot.next() => match report {
                        Some((Report::Ended { status, stopped, counters, files, more, .. }, _)) => {
                            let at = result_at.unwrap_or_else(Instant::now);
                            break Some(End { at, status, stopped, counters, files, more });
                        }
                        Some(_) => {}
                        None => break None,
                    },
                    () = &mut latest => break None,
                    Some(reason) = stop_queue.recv() => {
                        slot.stages.mark("program");
                        result_at.get_or_insert_with(Instant::now);
                        slot.send(Command::Kill { slot: number, reason });
                    }
                    () = any_of(cancel, abandon, events), if !withdrawn => {
                        withdrawn = true;
                        slot.send(Command::Kill { slot: number, reason: StopReason::Cancelled });
                    }
                }
            };
            over.cancel();
            if end.is_none() {
                lost.cancel();
            }
            end
        };
        let (end, (), out, err, (frame, value), ()) = tokio::join!(
            wait,
            write_request(input, request, &over),
            output.read(Pipe::new(stdout, &lost), Event::Stdout),
            output.read(Pipe::new(stderr, &lost), Event::Stderr),
            read_result(Pipe::new(result, &lost), self.traits.protocol, nonce, &stop),
            refuse(listener, &self.traits.probes, &denied, &over),
        );
        let output = OutputEvidence {
            stdout: out.kept,
            stderr: err.kept,
            discarded: out.discarded + err.discarded,
        };
        let denied = denied.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        (end, Heard { frame, value, output, denied })
    }

    /// Takes what the program left in `artifacts/`.
    async fn collect(&mut self, end: &End) -> Result<(Vec<Artifact>, Vec<SkippedArtifact>)> {
        let (mut artifacts, mut skipped) = (Vec::new(), Vec::new());
        let (mut total, mut left) = (0, end.files);
        while left > 0 {
            match self.slot.next_due().await {
                Some((Report::File { note, size, name, .. }, descriptors)) => {
                    left -= 1;
                    match take(note, size, &name, descriptors, &mut total).await {
                        Ok(artifact) => artifacts.push(artifact),
                        Err(reason) => {
                            let name = String::from_utf8_lossy(&name)
                                .replace(char::is_control, "\u{fffd}");
                            skipped.push(SkippedArtifact { name, reason: reason.to_owned() });
                        }
                    }
                }
                Some(_) => {}
                None => return Err(error::launcher_lost().after_start()),
            }
        }
        if end.more > 0 {
            let name = format!("({} more)", end.more);
            skipped.push(SkippedArtifact { name, reason: "too many files".to_owned() });
        }
        Ok((artifacts, skipped))
    }

    fn evidence(&self, end: &End, heard: &Heard) -> Evidence {
        let counters = &end.counters;
        Evidence {
            exit: match end.status {
                WaitStatus::Exited(code) => Some(Exit::Code(code)),
                WaitStatus::Signaled(signal) => Some(Exit::Signal(signal)),
                WaitStatus::Unknown => None,
            },
            stopped: end.stopped,
            meters: self.meters,
            frame: heard.frame.clone(),
            memory: MemoryEvidence {
                oom_kills: counters.oom_kills.unwrap_or(0),
                peak: counters.memory_peak,
                inherited: counters.inherited,
                limit: self.limits.memory,
                heap_aborts: self.traits.heap_aborts,
            },
            cpu: CpuEvidence { used_us: counters.cpu_us, limit_us: self.limits.cpu.map(micros) },
            processes: ProcessEvidence {
                refused: counters.forks_refused.unwrap_or(0),
                peak: counters.processes_peak,
                limit: self.limits.processes,
            },
            output: heard.output,
            disk: DiskEvidence { full: counters.disk_full },
            network: NetworkEvidence {
                unroutable: counters.unroutable.unwrap_or(0),
                unheard: counters.unheard.unwrap_or(0),
            },
            denied: heard.denied.clone(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Hands an event over, unless nobody takes it or the sandbox goes.
async fn send(
    events: &mpsc::Sender<Result<Event>>,
    abandon: &CancellationToken,
    event: Result<Event>,
) {
    tokio::select! {
        _ = events.send(event) => {}
        () = abandon.cancelled() => {}
    }
}

/// The caller cancels, the sandbox goes, or nobody reads the events any more.
async fn any_of(
    cancel: &CancellationToken,
    abandon: &CancellationToken,
    events: &mpsc::Sender<Result<Event>>,
) {
    tokio::select! {
        () = cancel.cancelled() => {}
        () = abandon.cancelled() => {}
        () = events.closed() => {}
    }
}

fn nonce() -> Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| error::io("make a nonce")(std::io::Error::other(error)))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A channel of the program's, read until it closes. With a launcher that is gone the kernel closes
/// it; should it not, it is given up.
struct Pipe<'a> {
    receiver: Receiver,
    lost: &'a CancellationToken,
    buffer: Vec<u8>,
}

impl<'a> Pipe<'a> {
    fn new(receiver: Receiver, lost: &'a CancellationToken) -> Self {
        Self { receiver, lost, buffer: Vec::with_capacity(PIPE_READ) }
    }

    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Option<&[u8]> {
        let given_up = async {
            self.lost.cancelled().await;
            tokio::time::sleep(LINGER).await;
        };
        self.buffer.clear();
        tokio::select! {
            read = self.receiver.read_buf(&mut self.buffer) => match read {
                Ok(1..) => Some(&self.buffer),
                _ => None,
            },
            () = given_up => None,
        }
    }
}

async fn write_request(mut input: Sender, request: &[u8], over: &CancellationToken) {
    tokio::select! {
        // A program that does not read its request has ended, and the launcher says so.
        _ = input.write_all(request) => {}
        () = over.cancelled() => {}
    }
}

/// What both output streams share.
struct Output<'a, Stop: Fn(StopReason)> {
    budget: &'a Budget,
    on_limit: OnOutputLimit,
    stop: &'a Stop,
    events: &'a mpsc::Sender<Result<Event>>,
    abandon: &'a CancellationToken,
}

impl<Stop: Fn(StopReason)> Output<'_, Stop> {
    /// Reads a stream to its end, keeps what fits, tells it as it comes.
    async fn read(&self, mut pipe: Pipe<'_>, event: fn(String) -> Event) -> Keeper {
        let is_error = matches!(event(String::new()), Event::Stderr(_));
        let mut keeper = Keeper::leaving(self.budget.reserve(is_error));
        while let Some(piece) = pipe.next().await {
            let text = keeper.push(piece, self.budget);
            if keeper.discarded > 0 && self.on_limit == OnOutputLimit::Stop {
                (self.stop)(StopReason::Output);
            }
            self.tell(text, event).await;
        }
        let text = keeper.finish();
        self.tell(text, event).await;
        keeper
    }

    async fn tell(&self, text: String, event: fn(String) -> Event) {
        if !text.is_empty() {
            send(self.events, self.abandon, Ok(event(text))).await;
        }
    }
}

/// Reads the result channel to its end; a complete frame ends the run.
async fn read_result(
    mut pipe: Pipe<'_>,
    protocol: Protocol,
    nonce: &str,
    stop: &impl Fn(StopReason),
) -> (FrameEvidence, Option<Box<RawValue>>) {
    let mut reader = FrameReader::new(protocol);
    let mut complete = false;
    while let Some(piece) = pipe.next().await {
        if reader.push(piece) && !complete {
            complete = true;
            stop(StopReason::Result);
        }
    }
    reader.finish(nonce)
}

/// Refuses and records denied calls until the run is over or the record is full.
async fn refuse(
    listener: AsyncFd<Listener>,
    probes: &[String],
    denied: &Mutex<Vec<DeniedCall>>,
    over: &CancellationToken,
) {
    let (mut recorded, mut probed) = (0, 0);
    while recorded < MOST_DENIED && probed < MOST_PROBES {
        let name = tokio::select! {
            name = next_refused(&listener) => name,
            () = over.cancelled() => return,
        };
        let Ok(name) = name else { return };
        let probe = probes.contains(&name);
        // What the interpreter tries by itself does not use up the record of what matters.
        *(if probe { &mut probed } else { &mut recorded }) += 1;
        let mut denied = denied.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match denied.iter_mut().find(|call: &&mut DeniedCall| call.name == name) {
            Some(call) => call.count += 1,
            None => {
                denied.push(DeniedCall { name, count: 1, probe });
            }
        }
    }
}

/// Takes one file, or says why not.
async fn take(
    note: FileNote,
    size: u64,
    name: &[u8],
    descriptors: Vec<OwnedFd>,
    total: &mut u64,
) -> std::result::Result<Artifact, &'static str> {
    let name = std::str::from_utf8(name).map_err(|_| "its name is not UTF-8")?;
    if name.starts_with('.') || name.contains(['/', '\\']) || name.chars().any(char::is_control) {
        return Err("its name has a leading dot, a separator or a control character");
    }
    match note {
        FileNote::Readable => {}
        FileNote::Directory => return Err("it is a directory"),
        FileNote::Special => return Err("it is not a regular file"),
        FileNote::Unreadable => return Err("it cannot be opened"),
    }
    if size > MAX_ARTIFACT {
        return Err("it is larger than 10 MiB");
    }
    if *total + size > MAX_ARTIFACTS_TOTAL {
        return Err("all files together are larger than 100 MiB");
    }
    *total += size;
    let file = File::from(descriptors.into_iter().next().ok_or("it cannot be opened")?);
    // From memory to memory: not worth a thread, unless there is much of it.
    let read = move || -> std::io::Result<Vec<u8>> {
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.take(MAX_ARTIFACT).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = if size < 256 << 10 {
        read()
    } else {
        tokio::task::spawn_blocking(read)
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
    };
    Ok(Artifact { name: name.to_owned(), content: content.map_err(|_| "it cannot be read")? })
}
