//! RAGFlow's executor manager: `POST /run`.
//!
//! The only place where RAGFlow's statuses are derived, and only from [`Outcome`] and [`Evidence`]:
//!
//! | end | `status` | `exit_code` | companion |
//! | --- | --- | --- | --- |
//! | `main` returned | `success` | 0 | `result.present` |
//! | failed, or ended before `main` returned | `program_error` | its own, also 0 | `runtime_error_type` `nonzero_exit` |
//! | a signal that nobody sent as a limit | `runtime_error` | 128 + n | `runtime_error_type` `signalled` |
//! | wall clock | `resource_limit_exceeded` | -124 | `resource_limit_type` `time`, `Execution timeout` |
//! | CPU time | `resource_limit_exceeded` | -124 | `resource_limit_type` `time` |
//! | memory | `resource_limit_exceeded` | -137 | `resource_limit_type` `memory`, `Memory limit exceeded (killed by OOM)` |
//! | output, where the policy stops it | `resource_limit_exceeded` | -125 | `resource_limit_type` `output` |
//! | processes | `resource_limit_exceeded` | -126 | `resource_limit_type` `processes` |
//! | disk | `resource_limit_exceeded` | -127 | `resource_limit_type` `disk` |
//! | a refused system call | `unauthorized_access` | its own, or 1 | `unauthorized_access_type` `disallowed_syscall` |
//! | refused network | `unauthorized_access` | its own, or 1 | `unauthorized_access_type` `network_access` |
//! | cancelled by us (shutdown) | `program_runner_error` | -3 | `internal_error` |
//! | no place in time | `program_runner_error` | -10 | `no_available_container`, `Container pool is busy` |
//! | beyond a rate limit | `program_runner_error` | -429 | `too_many_requests`; with HTTP 429 |
//! | any other failure of ours | `program_runner_error` | -3 | `internal_error` |
//! | a panic of ours | `program_runner_error` | -999 | `unhandled_exception` |
//!
//! The word of a `program_runner_error` is in `detail` and in `runtime_error_type`; beyond a rate limit
//! `detail` is the sentence of stderr, as there.
//!
//! RAGFlow's client reads a body only with HTTP 200 and runs a program again after a 5xx, so every
//! end is 200. A request beyond a rate limit is no end of a program: it is HTTP 429, as there, and
//! nobody runs it again. It sees a failure only if stderr is not empty and there is nothing else: every
//! answer but `success` has `stdout: ""`, `artifacts: []`, `result: null` and a stderr that ends in
//! the verdict, while `partial_stdout` and `partial_artifacts` hold what there was.

mod artifacts;
mod request;

use std::{panic::AssertUnwindSafe, time::Duration};

use ampoule_core::{
    CancellationToken, Collector, Denial, Error, ErrorKind, Evidence, Excess, ExecuteRequest,
    ExecutionId, ExecutionResult, Exit, FrameEvidence, IsolationReport, LimitKind, Outcome,
    ProgramError, RawValue, SkippedArtifact, StopReason,
};
use ampoule_manager::{Execution, Panicked, PoolUse, new_execution_id, summary};
use axum::{
    Extension,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use serde::Serialize;
use tracing::error;

use self::artifacts::ArtifactBody;
use crate::{
    error::{ApiError, Problem, TOO_MANY, close_after, json, with_retry_after},
    http::{App, ExecutionSlot, read_body},
};

/// The answer of `/run`.
#[derive(Debug, Serialize)]
struct RunResult {
    status: &'static str,
    stdout: String,
    stderr: String,
    exit_code: i32,
    detail: Option<&'static str>,
    time_used_ms: Option<f64>,
    memory_used_kb: Option<u64>,
    resource_limit_type: Option<&'static str>,
    unauthorized_access_type: Option<&'static str>,
    runtime_error_type: Option<&'static str>,
    artifacts: Vec<ArtifactBody>,
    result: Option<StructuredResult>,
    // From here on ours.
    partial_stdout: Option<String>,
    partial_artifacts: Vec<ArtifactBody>,
    skipped_artifacts: Vec<SkippedArtifact>,
    output_discarded_bytes: u64,
    error: Option<ProgramError>,
    evidence: Option<Evidence>,
    isolation: Option<IsolationReport>,
    /// Whether its sandbox was ready before: `hit` or `miss`.
    pool: Option<&'static str>,
    execution_id: ExecutionId,
}

/// How a run was held.
struct Ran {
    isolation: IsolationReport,
    pool: PoolUse,
}

/// What `main` returned.
#[derive(Debug, Serialize)]
struct StructuredResult {
    present: bool,
    value: Box<RawValue>,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// Answers `POST /run`.
pub(crate) async fn run(
    State(app): State<App>,
    Extension(slot): Extension<ExecutionSlot>,
    request: Request,
) -> Response {
    let id = new_execution_id();
    let request = match read_request(&app, &id, request).await {
        Ok(request) => request,
        Err(refusal) => return refusal.into_response(),
    };
    slot.set(id.clone());
    // The run is this future's own: when the client goes away the future is dropped, and with it
    // the events, which cancels the run.
    let answer = AssertUnwindSafe(execute(&app, id.clone(), request)).catch_unwind().await;
    match answer {
        Ok(response) => response,
        Err(_) => answer_with(&RunResult::unhandled(id)),
    }
}

async fn read_request(
    app: &App,
    id: &ExecutionId,
    request: Request,
) -> Result<ExecuteRequest, ApiError> {
    let body = read_body(request, &app.config).await?;
    let wanted = request::parse(&body, &app.config).map_err(ApiError::Invalid)?;
    let request = ExecuteRequest {
        id: id.clone(),
        language: wanted.language,
        code: wanted.code,
        arguments: wanted.arguments,
        limits: wanted.limits,
        network: wanted.network,
        profile: wanted.profile,
        trust_group: wanted.trust_group,
    };
    let problems =
        app.manager.excesses(&request.spec()).into_iter().map(problem).collect::<Vec<_>>();
    if problems.is_empty() { Ok(request) } else { Err(ApiError::Invalid(problems)) }
}

/// Something that the operator or the provider does not allow, at its field.
fn problem(excess: Excess) -> Problem {
    let message = format!("Value error, {excess}");
    match excess.field {
        field @ ("network" | "profile") => Problem::of_field(field, "value_error", message),
        limit => Problem::of_limit(limit, "value_error", message),
    }
}

/// Answers a call of `/run` beyond a rate limit.
pub(crate) fn too_many(retry_after: Duration) -> Response {
    let (id, word) = (new_execution_id(), "too_many_requests");
    let result = RunResult {
        detail: Some(TOO_MANY),
        ..RunResult::of_ours(id, -429, word, TOO_MANY.to_owned())
    };
    let mut response = json(StatusCode::TOO_MANY_REQUESTS, &result);
    // The body that came with it was not read.
    close_after(&mut response);
    with_retry_after(response, retry_after)
}

async fn execute(app: &App, id: ExecutionId, request: ExecuteRequest) -> Response {
    let result = match app.manager.execute(request, CancellationToken::new()).await {
        Ok(Execution { isolation, pool, events, .. }) => {
            Collector::collect(events).await.map(|result| (Ran { isolation, pool }, result))
        }
        Err(error) => Err(error),
    };
    match result {
        Ok((ran, result)) if artifacts::are_large(&result.artifacts) => {
            // Encoding them would keep other requests waiting.
            let encode = move || answer_with(&RunResult::of(id, ran, result));
            match tokio::task::spawn_blocking(encode).await {
                Ok(response) => response,
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            }
        }
        Ok((ran, result)) => answer_with(&RunResult::of(id, ran, result)),
        Err(error) => answer_with(&RunResult::failed(id, &error)),
    }
}

fn answer_with(result: &RunResult) -> Response {
    json(StatusCode::OK, result)
}

/// What an end is in RAGFlow's words.
struct Status {
    status: &'static str,
    exit_code: i32,
    resource_limit_type: Option<&'static str>,
    unauthorized_access_type: Option<&'static str>,
    runtime_error_type: Option<&'static str>,
    /// The last line of stderr; none for a success.
    verdict: Option<String>,
}

impl Status {
    fn new(status: &'static str, exit_code: i32) -> Self {
        Self {
            status,
            exit_code,
            resource_limit_type: None,
            unauthorized_access_type: None,
            runtime_error_type: None,
            verdict: None,
        }
    }

    fn of(outcome: &Outcome, evidence: &Evidence) -> Self {
        let told = summary(outcome, evidence);
        match outcome {
            Outcome::Succeeded => Self::new("success", 0),
            Outcome::Failed { signal: Some(signal), .. } => Self {
                runtime_error_type: Some("signalled"),
                verdict: Some(format!("Runtime error: {told}")),
                ..Self::new("runtime_error", 128 + signal)
            },
            Outcome::Failed { exit_code, .. } => Self {
                runtime_error_type: Some("nonzero_exit"),
                verdict: Some(format!("Program error: {told}")),
                ..Self::new("program_error", exit_code.unwrap_or(1))
            },
            Outcome::LimitExceeded { limit } => Self::of_limit(*limit, evidence, told),
            Outcome::Denied { what } => Self {
                unauthorized_access_type: Some(match what.first() {
                    Some(Denial::Network { .. }) => "network_access",
                    Some(Denial::Syscall { .. }) | None => "disallowed_syscall",
                }),
                verdict: Some(format!("Unauthorized access: {told}")),
                ..Self::new("unauthorized_access", own_exit_code(evidence))
            },
            Outcome::Cancelled => Self {
                runtime_error_type: Some(INTERNAL_ERROR),
                verdict: Some(format!("Internal error: {told}")),
                ..Self::new(RUNNER_ERROR, -3)
            },
        }
    }

    fn of_limit(limit: LimitKind, evidence: &Evidence, told: String) -> Self {
        let (exit_code, kind, verdict) = match limit {
            LimitKind::Time => (-124, "time", "Execution timeout".to_owned()),
            LimitKind::Cpu => (-124, "time", format!("Execution timeout: {told}")),
            LimitKind::Memory if evidence.memory.oom_kills > 0 => {
                (-137, "memory", "Memory limit exceeded (killed by OOM)".to_owned())
            }
            LimitKind::Memory => (-137, "memory", format!("Memory limit exceeded: {told}")),
            LimitKind::Output => (-125, "output", format!("Output limit exceeded: {told}")),
            LimitKind::Processes => (-126, "processes", format!("Process limit exceeded: {told}")),
            LimitKind::Disk => (-127, "disk", format!("Disk limit exceeded: {told}")),
        };
        Self {
            resource_limit_type: Some(kind),
            verdict: Some(verdict),
            ..Self::new("resource_limit_exceeded", exit_code)
        }
    }
}

const RUNNER_ERROR: &str = "program_runner_error";
const INTERNAL_ERROR: &str = "internal_error";

/// The program's own exit code, a signal as shells write it; 1 where we ended it after its error.
fn own_exit_code(evidence: &Evidence) -> i32 {
    match evidence.exit {
        Some(Exit::Signal(9)) if evidence.stopped == Some(StopReason::Result) => 1,
        Some(Exit::Code(code)) => code,
        Some(Exit::Signal(signal)) => 128 + signal,
        None => 1,
    }
}

impl RunResult {
    /// The answer for a run that ended.
    fn of(id: ExecutionId, ran: Ran, result: ExecutionResult) -> Self {
        let ExecutionResult { stdout, stderr, value, artifacts, finished } = result;
        let status = Status::of(&finished.outcome, &finished.evidence);
        let (bodies, skipped) = artifacts::select(artifacts, finished.skipped_artifacts);
        let evidence = finished.evidence;
        let is_success = finished.outcome.is_success();
        let error = match finished.outcome {
            Outcome::Failed { error, .. } => error,
            _ => match &evidence.frame {
                FrameEvidence::Error(error) => Some(error.clone()),
                _ => None,
            },
        };
        let mut answer = Self {
            status: status.status,
            stdout: String::new(),
            stderr,
            exit_code: status.exit_code,
            detail: (status.status == RUNNER_ERROR).then_some(INTERNAL_ERROR),
            time_used_ms: Some(milliseconds(finished.usage.wall_us)),
            memory_used_kb: finished.usage.memory_peak.map(|bytes| bytes.div_ceil(1024)),
            resource_limit_type: status.resource_limit_type,
            unauthorized_access_type: status.unauthorized_access_type,
            runtime_error_type: status.runtime_error_type,
            artifacts: Vec::new(),
            result: None,
            partial_stdout: None,
            partial_artifacts: Vec::new(),
            skipped_artifacts: skipped,
            output_discarded_bytes: evidence.output.discarded,
            error,
            evidence: Some(evidence),
            isolation: Some(ran.isolation),
            pool: Some(ran.pool.as_str()),
            execution_id: id,
        };
        if is_success {
            answer.stdout = stdout;
            answer.artifacts = bodies;
            answer.result =
                value.map(|value| StructuredResult { present: true, value, kind: "json" });
        } else {
            answer.stderr = explain(&answer.stderr, &stdout, &status.verdict.unwrap_or_default());
            answer.partial_stdout = Some(stdout);
            answer.partial_artifacts = bodies;
        }
        answer
    }

    /// The answer for a failure of ours.
    fn failed(id: ExecutionId, failure: &Error) -> Self {
        let is_panic =
            std::error::Error::source(failure).is_some_and(|source| source.is::<Panicked>());
        if is_panic {
            return Self::unhandled(id);
        }
        if failure.kind() == ErrorKind::Busy {
            let stderr = "Container pool is busy".to_owned();
            return Self::of_ours(id, -10, "no_available_container", stderr);
        }
        error!(execution_id = %id, error = failure.chain(), "/run failed");
        let stderr = format!("Internal error: {} (execution {id})", failure.message());
        Self::of_ours(id, -3, INTERNAL_ERROR, stderr)
    }

    /// The answer for a panic of ours.
    fn unhandled(id: ExecutionId) -> Self {
        error!(execution_id = %id, "/run panicked");
        let stderr = format!("Internal error: an internal fault (execution {id})");
        Self::of_ours(id, -999, "unhandled_exception", stderr)
    }

    fn of_ours(id: ExecutionId, exit_code: i32, word: &'static str, stderr: String) -> Self {
        Self {
            status: RUNNER_ERROR,
            stdout: String::new(),
            stderr,
            exit_code,
            detail: Some(word),
            time_used_ms: None,
            memory_used_kb: None,
            resource_limit_type: None,
            unauthorized_access_type: None,
            runtime_error_type: Some(word),
            artifacts: Vec::new(),
            result: None,
            partial_stdout: None,
            partial_artifacts: Vec::new(),
            skipped_artifacts: Vec::new(),
            output_discarded_bytes: 0,
            error: None,
            evidence: None,
            isolation: None,
            pool: None,
            execution_id: id,
        }
    }
}

/// The stderr of a failure: the program's, then its stdout under a heading, then the verdict.
fn explain(stderr: &str, stdout: &str, verdict: &str) -> String {
    let mut text = stderr.to_owned();
    let mut on_new_line = |piece: &str| {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(piece);
    };
    if !stdout.trim().is_empty() {
        on_new_line("--- stdout ---\n");
        on_new_line(stdout);
    }
    on_new_line(verdict);
    text
}

#[expect(clippy::cast_precision_loss, reason = "no run takes 2^53 microseconds")]
fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}
