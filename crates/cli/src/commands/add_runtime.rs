//! `ampoule runtimes add`: a language from a folder, checked by real runs before it is kept.
//!
//! ```text
//! read and check the folder -> interpreter and version -> three runs in sandboxes -> data directory
//! ```
//!
//! Until the last step nothing is written, so that a failure leaves nothing.

use std::{fmt::Write as _, num::NonZeroUsize, path::Path, time::Duration};

use ampoule_core::{
    Arguments, CancellationToken, Code, ErrorKind, Example, ExecuteRequest, ExecutionResult,
    Language, Layer, LimitKind, Limits, NetworkPolicy, Outcome, Profile, TrustGroup, format_bytes,
};
use ampoule_manager::{Manager, ManagerConfig, PoolConfig, new_execution_id, summary};
use ampoule_providers::runtimes::{Catalogue, NewRuntime, RuntimeFolder, resolve_from_environment};

use crate::{
    config::Config,
    exit::{ExitCode, Failure},
    logging, output,
    provider::{Needs, Prepared, Slots},
};

/// How long the program that never ends may go on.
const ENDLESS: Duration = Duration::from_secs(1);

/// The most that an error repeats of what a runner or an example said, in bytes.
const MAX_SAID: usize = 2048;

/// Adds the runtime in `directory`.
pub(crate) fn add(
    mut config: Config,
    directory: &Path,
    replace: bool,
) -> Result<ExitCode, Failure> {
    logging::start(config.log.as_deref().unwrap_or("error"), Some(logging::LogFormat::Text))?;
    // Three short programs of the folder's own: a watch over them will do.
    config.allow_missing.push(Layer::Cgroup);
    let runtime = NewRuntime::read(directory)?;
    let folder = runtime.folder();
    let language = folder.language();
    // Other folders that are broken are no reason not to add this one.
    let (catalogue, _) = Catalogue::survey(&config.data_dir, &config.runtime_dirs);
    if let Some(there) = catalogue.iter().find(|there| there.language() == language)
        && !replace
    {
        let what = if there.path.is_some() { "is there already" } else { "is part of ampoule" };
        let hint = "hint: `--replace` puts this folder in its place";
        return Err(Failure::usage(format!("`{language}` {what}; {hint}")));
    }
    // Names that another language answers to are an error before anything runs.
    catalogue.extend(Catalogue::only(folder.clone()))?;
    let interpreter = resolve_from_environment(&folder.manifest).and_then(|interpreter| {
        interpreter.check_version(&folder.manifest)?;
        Ok(format!("{} at {}", interpreter.version()?, interpreter.host_path.display()))
    });
    let interpreter = interpreter.map_err(|error| Failure::usage(error.chain()))?;
    // The folder's own programs get what every run gets, and at least what the manifest asks for.
    let (memory, least) = (config.limits.memory, folder.manifest.least_memory());
    config.limits.memory = memory.max(least);
    config.manager.bounds.memory = config.manager.bounds.memory.max(least);
    check(&config, folder)?;
    let place = runtime.store(&config.data_dir, replace)?;
    let mut text =
        format!("{language}: added to {}\n  interpreter  {interpreter}\n", place.display());
    // Writing to a string does not fail.
    let _ = writeln!(text, "  example      gave {}", folder.manifest.example.value.trim());
    if folder.manifest.packages.is_some() {
        let _ = writeln!(text, "  hint: `ampoule runtimes install {language}`");
    }
    if memory < least {
        let (memory, least) = (format_bytes(memory), format_bytes(least));
        let _ = writeln!(
            text,
            "  hint: it needs {least} of memory; `limits.memory` is {memory}, `--memory` asks for more"
        );
    }
    output::print(&text)?;
    Ok(ExitCode::Success)
}

/// Runs the example and what must not succeed, each in a sandbox of its own.
fn check(config: &Config, folder: &RuntimeFolder) -> Result<(), Failure> {
    let needs = Needs {
        slots: Slots::ONE,
        only: Some(folder.language().clone()),
        // The data directory is written afterwards, and another id may not.
        probes: false,
        gives_up_rights: false,
    };
    let prepared = Prepared::new(config, &Catalogue::only(folder.clone()), &needs)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::platform(format!("failed to start the runtime: {error}")))?;
    runtime.block_on(async {
        let provider = prepared.connect().await?.provider;
        // A run waits until the sandbox of the one before is gone.
        let one_by_one = ManagerConfig {
            concurrency: NonZeroUsize::MIN,
            queue: 1,
            pool: PoolConfig::off(),
            ..config.manager
        };
        let manager = Manager::new(provider, one_by_one);
        let checked =
            check_on(&manager, folder.language(), &folder.manifest.example, config.limits).await;
        let down = manager.shutdown(Duration::ZERO).await;
        checked?;
        Ok(down?)
    })
}

async fn check_on(
    manager: &Manager,
    language: &Language,
    example: &Example,
    limits: Limits,
) -> Result<(), Failure> {
    let result = run(manager, language, "code", &example.code, &example.arguments, limits).await?;
    match &result.value {
        Some(value) if example.returns(value) => {}
        Some(value) => {
            let what = format!(
                "it returned `{}` instead of `{}`",
                shortened(value.get()),
                example.value.trim()
            );
            return Err(wrong("code", &what, &result));
        }
        None => return Err(wrong("code", "it gave no value", &result)),
    }
    let result = run(manager, language, "failing", &example.failing, "{}", limits).await?;
    if !matches!(result.finished.outcome, Outcome::Failed { .. }) {
        return Err(wrong("failing", "it is to fail by its own doing", &result));
    }
    let short = Limits { wall: limits.wall.min(ENDLESS), ..limits };
    let result = run(manager, language, "endless", &example.endless, "{}", short).await?;
    match result.finished.outcome {
        Outcome::LimitExceeded { limit: LimitKind::Time | LimitKind::Cpu } => Ok(()),
        _ => Err(wrong("endless", "it is to go on until its time is up", &result)),
    }
}

async fn run(
    manager: &Manager,
    language: &Language,
    field: &str,
    code: &str,
    arguments: &str,
    limits: Limits,
) -> Result<ExecutionResult, Failure> {
    let invalid = |error: &dyn std::error::Error| Failure::usage(format!("`example`: {error}"));
    let request = ExecuteRequest {
        id: new_execution_id(),
        language: language.clone(),
        code: Code::new(code).map_err(|error| invalid(&error))?,
        arguments: Arguments::parse(arguments).map_err(|error| invalid(&error))?,
        limits,
        network: NetworkPolicy::None,
        profile: Profile::Fast,
        trust_group: TrustGroup::default(),
    };
    manager.run(request, CancellationToken::new()).await.map_err(|error| {
        // The launcher was there to answer: what did not start, or ended between its ready byte and
        // its request, is this runtime.
        let is_runtime = error.kind() == ErrorKind::Unavailable || error.program_may_have_started();
        // What was not allowed says its own fix.
        let hint = match error.kind() {
            ErrorKind::InvalidRequest => "",
            _ => "; hint: mend the runner, which has to be ready, read its request and answer",
        };
        let failure = Failure::from(error);
        let message = format!("`example.{field}` was not run: {}{hint}", failure.message);
        let code = if is_runtime { ExitCode::Usage } else { failure.code };
        Failure { code, message }
    })
}

/// What was wrong with a run, how it ended, and what was said in it. The programs are the folder's
/// own, so that their words may be shown.
fn wrong(field: &str, what: &str, result: &ExecutionResult) -> Failure {
    let end = summary(&result.finished.outcome, &result.finished.evidence);
    let mut text = format!("`example.{field}` of the manifest: {what}; it ended so: {end}");
    for (stream, said) in [("stdout", &result.stdout), ("stderr", &result.stderr)] {
        if !said.trim().is_empty() {
            // Writing to a string does not fail.
            let _ = write!(text, "; {stream} said: {}", shortened(said.trim()));
        }
    }
    text.push_str("; hint: mend the runner or the example");
    Failure::usage(text)
}

fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_SAID);
    let more = if end < text.len() { " …" } else { "" };
    format!("{}{more}", &text[..end])
}
