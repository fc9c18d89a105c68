//! `ampoule run`: one program, from a file to its value.

use std::{
    fs::File,
    io::{self, Read},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use ampoule_core::{
    Arguments, Artifact, CancellationToken, Code, Culprit, Error, Event, Evidence, ExecuteRequest,
    ExecutionId, Finished, IsolationReport, Language, Layer, Outcome, RawValue, SkippedArtifact,
    TrustGroup, Usage,
};
use ampoule_manager::{
    Execution, Manager, ManagerConfig, PoolConfig, new_execution_id, shown_name, summary,
};
use ampoule_providers::runtimes::Catalogue;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    arguments::RunArguments,
    artifacts::{ArtifactDirectory, NotWritten},
    config::{Config, Layers},
    exit::{ExitCode, Failure},
    json_text::lay_out,
    logging,
    output::{self, Live},
    provider::{Needs, Prepared, Slots, catalogue},
};

/// The largest program or arguments file, in bytes: as large as a request of the service.
const MAX_INPUT: u64 = 32 << 20;

/// Runs one program.
pub(crate) fn run(arguments: RunArguments, layers: &Layers) -> Result<ExitCode, Failure> {
    let mut config = Config::load(layers)?;
    // One program, and somebody who sees the line that says so.
    config.allow_missing.push(Layer::Cgroup);
    logging::start(config.log.as_deref().unwrap_or("error"), Some(logging::LogFormat::Text))?;
    let catalogue = catalogue(&config)?;
    let request = read_request(&arguments, &config, &catalogue)?;
    let directory = arguments.artifacts.as_deref().map(ArtifactDirectory::create).transpose()?;
    let needs = Needs {
        slots: Slots::ONE,
        only: Some(request.language.clone()),
        probes: false,
        // The artifacts go where the user may write, and another id may not.
        gives_up_rights: directory.is_none(),
    };
    let prepared = Prepared::new(&config, &catalogue, &needs)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::platform(format!("failed to start the runtime: {error}")))?;
    runtime.block_on(async {
        let cancel = CancellationToken::new();
        cancel_on_signals(&cancel)?;
        let provider = prepared.connect().await?.provider;
        let only_one = ManagerConfig {
            concurrency: NonZeroUsize::MIN,
            queue: 0,
            pool: PoolConfig::off(),
            ..config.manager
        };
        let manager = Manager::new(provider, only_one);
        let id = request.id.clone();
        let report = match manager.execute(request, cancel.clone()).await {
            Ok(execution) if arguments.json => collect(execution, directory.as_ref()).await,
            Ok(execution) => show(execution, directory.as_ref(), cancel).await,
            Err(error) => Report::failed(id, &error),
        };
        let down = manager.shutdown(Duration::ZERO).await;
        let code = if arguments.json { report.print()? } else { report.tell() };
        down?;
        Ok(code)
    })
}

/// SIGINT, SIGTERM and SIGHUP cancel the run.
fn cancel_on_signals(cancel: &CancellationToken) -> Result<(), Failure> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signal: Signal = signal(kind)
            .map_err(|error| Failure::platform(format!("failed to watch signals: {error}")))?;
        let cancel = cancel.clone();
        tokio::spawn(async move {
            signal.recv().await;
            cancel.cancel();
        });
    }
    Ok(())
}

fn read_request(
    arguments: &RunArguments,
    config: &Config,
    catalogue: &Catalogue,
) -> Result<ExecuteRequest, Failure> {
    let language = language_of(arguments, catalogue)?;
    let code = Code::from_bytes(&read(&arguments.file)?)
        .map_err(|error| Failure::usage(format!("{}: {error}", arguments.file.display())))?;
    let values = match arguments.args.as_deref() {
        None => Arguments::none(),
        Some(text) => {
            let text = match text.strip_prefix('@') {
                Some(path) => String::from_utf8(read(Path::new(path))?)
                    .map_err(|_| Failure::usage(format!("--args: `{path}` is not UTF-8")))?,
                None => text.to_owned(),
            };
            Arguments::parse(&text).map_err(|error| Failure::usage(format!("--args: {error}")))?
        }
    };
    Ok(ExecuteRequest {
        id: new_execution_id(),
        language,
        code,
        arguments: values,
        limits: config.limits,
        network: config.network,
        profile: config.profile,
        trust_group: TrustGroup::default(),
    })
}

fn language_of(arguments: &RunArguments, catalogue: &Catalogue) -> Result<Language, Failure> {
    if let Some(name) = &arguments.lang {
        return Ok(catalogue.get(name)?.language().clone());
    }
    let extension = arguments.file.extension().and_then(|extension| extension.to_str());
    let folder = extension.and_then(|extension| catalogue.by_extension(extension));
    folder.map(|folder| folder.language().clone()).ok_or_else(|| {
        let known: Vec<String> = catalogue.languages().iter().map(Language::to_string).collect();
        Failure::usage(format!(
            "the language of `{}` is unknown; hint: --lang, one of {}",
            arguments.file.display(),
            known.join(", ")
        ))
    })
}

/// Reads a file, or stdin for `-`.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut read = |source: &mut dyn Read| source.take(MAX_INPUT + 1).read_to_end(&mut bytes);
    let done = match path.to_str() {
        Some("-") => read(&mut io::stdin().lock()),
        _ => File::open(path).and_then(|mut file| read(&mut file)),
    };
    let shown = path.display();
    match done {
        Err(error) => Err(Failure::usage(format!("failed to read `{shown}`: {error}"))),
        Ok(_) if bytes.len() as u64 > MAX_INPUT => {
            Err(Failure::usage(format!("`{shown}` is larger than {MAX_INPUT} bytes")))
        }
        Ok(_) => Ok(bytes),
    }
}

/// Everything about a run, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    execution_id: ExecutionId,
    /// How the program ended; none if we failed.
    outcome: Option<Outcome>,
    culprit: Culprit,
    value: Option<Box<RawValue>>,
    stdout: String,
    stderr: String,
    artifacts: Vec<ArtifactReport>,
    skipped_artifacts: Vec<SkippedArtifact>,
    evidence: Option<Evidence>,
    usage: Option<Usage>,
    isolation: Option<IsolationReport>,
    /// Our own failure.
    error: Option<ErrorReport>,
    #[serde(skip)]
    code: ExitCode,
    /// Whether an artifact could not be written.
    #[serde(skip)]
    is_file_missing: bool,
    /// Lines for stderr in the end.
    #[serde(skip)]
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ArtifactReport {
    name: String,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct ErrorReport {
    kind: &'static str,
    message: String,
}

impl Report {
    fn new(execution_id: ExecutionId, isolation: Option<IsolationReport>) -> Self {
        Self {
            execution_id,
            outcome: None,
            culprit: Culprit::Platform,
            value: None,
            stdout: String::new(),
            stderr: String::new(),
            artifacts: Vec::new(),
            skipped_artifacts: Vec::new(),
            evidence: None,
            usage: None,
            isolation,
            error: None,
            code: ExitCode::PlatformFailed,
            is_file_missing: false,
            notes: Vec::new(),
        }
    }

    fn failed(id: ExecutionId, error: &Error) -> Self {
        let mut report = Self::new(id, None);
        report.fail(error);
        report
    }

    fn fail(&mut self, error: &Error) {
        self.code = ExitCode::from(error);
        self.culprit = match self.code {
            ExitCode::Cancelled | ExitCode::Usage => Culprit::Caller,
            _ => Culprit::Platform,
        };
        self.notes.push(error.chain());
        self.error =
            Some(ErrorReport { kind: error.kind().as_str(), message: error.message().to_owned() });
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { outcome, evidence, usage, skipped_artifacts } = finished;
        self.code = match ExitCode::from(&outcome) {
            // The program did its part, and we did not do ours.
            ExitCode::Success if self.is_file_missing => ExitCode::PlatformFailed,
            code => code,
        };
        self.culprit = outcome.culprit();
        let discarded = evidence.output.discarded;
        if discarded > 0 {
            self.notes.push(format!("{discarded} bytes of output beyond the limit were discarded"));
        }
        if !outcome.is_success() {
            self.notes.push(summary(&outcome, &evidence));
        }
        self.skipped_artifacts.extend(skipped_artifacts);
        self.outcome = Some(outcome);
        self.evidence = Some(evidence);
        self.usage = Some(usage);
    }

    fn take_artifact(&mut self, artifact: &Artifact, directory: Option<&ArtifactDirectory>) {
        let (name, size) = (shown_name(&artifact.name), artifact.content.len());
        let written = directory.map(|directory| directory.write(artifact)).transpose();
        match written {
            Ok(path) => self.artifacts.push(ArtifactReport { name, size, path }),
            Err(NotWritten::BadName) => {
                let reason = "the name is not allowed".to_owned();
                self.skipped_artifacts.push(SkippedArtifact { name, reason });
            }
            Err(NotWritten::Failed(error)) => {
                self.notes.push(format!("failed to write the artifact `{name}`: {error}"));
                self.is_file_missing = true;
                let reason = "it could not be written".to_owned();
                self.skipped_artifacts.push(SkippedArtifact { name, reason });
            }
        }
    }

    /// Says the end to people.
    fn tell(&self) -> ExitCode {
        for note in &self.notes {
            output::note(note);
        }
        self.code
    }

    /// Prints everything to machines.
    fn print(&self) -> Result<ExitCode, Failure> {
        let text = serde_json::to_string(self)
            .map_err(|error| Failure::platform(format!("failed to write the report: {error}")))?;
        output::print(&format!("{text}\n"))?;
        Ok(self.code)
    }
}

/// Follows a run in silence.
async fn collect(mut execution: Execution, directory: Option<&ArtifactDirectory>) -> Report {
    let mut report = Report::new(execution.id, Some(execution.isolation));
    while let Some(event) = execution.events.next().await {
        match event {
            Ok(Event::Stdout(text)) => report.stdout.push_str(&text),
            Ok(Event::Stderr(text)) => report.stderr.push_str(&text),
            Ok(Event::Value(value)) => report.value = Some(value),
            Ok(Event::Artifact(artifact)) => report.take_artifact(&artifact, directory),
            Ok(Event::Finished(finished)) => report.finish(*finished),
            Err(error) => report.fail(&error),
        }
    }
    report
}

/// Follows a run and shows what it writes as it writes it, and in the end its value.
async fn show(
    mut execution: Execution,
    directory: Option<&ArtifactDirectory>,
    cancel: CancellationToken,
) -> Report {
    let mut live = Live::start(cancel);
    let missing = &execution.isolation.missing;
    if !missing.is_empty() {
        let missing: Vec<&str> = missing.iter().map(|layer| layer.as_str()).collect();
        output::note(&format!("not enforced on this machine: {}", missing.join(", ")));
    }
    let mut report = Report::new(execution.id, Some(execution.isolation));
    let mut value = None;
    while let Some(event) = execution.events.next().await {
        match event {
            Ok(Event::Stdout(text)) => live.stdout(text),
            Ok(Event::Stderr(text)) => live.stderr(text),
            Ok(Event::Value(returned)) => value = Some(returned),
            Ok(Event::Artifact(artifact)) => report.take_artifact(&artifact, directory),
            Ok(Event::Finished(finished)) => report.finish(*finished),
            Err(error) => report.fail(&error),
        }
    }
    if let (ExitCode::Success, Some(value)) = (report.code, value) {
        live.line(&lay_out(value.get(), output::is_terminal()));
    }
    let is_cancelled = report.code == ExitCode::Cancelled;
    if let Err(error) = live.finish(is_cancelled)
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        report.notes.push(format!("failed to write to stdout: {error}"));
        report.code = ExitCode::PlatformFailed;
    }
    let of_artifacts = match directory {
        Some(_) => report.skipped_artifacts.iter().map(left_out).collect(),
        None => dropped(report.artifacts.len()).into_iter().collect::<Vec<_>>(),
    };
    // The verdict stays last.
    report.notes.splice(0..0, of_artifacts);
    report
}

/// Says that an artifact did not come back, and why.
fn left_out(SkippedArtifact { name, reason }: &SkippedArtifact) -> String {
    format!("artifact `{}` left out: {reason}", shown_name(name))
}

/// Says that artifacts have no place to go to, if there are any.
fn dropped(count: usize) -> Option<String> {
    match count {
        0 => None,
        1 => Some("1 artifact was dropped; --artifacts DIR keeps it".to_owned()),
        _ => Some(format!("{count} artifacts were dropped; --artifacts DIR keeps them")),
    }
}
