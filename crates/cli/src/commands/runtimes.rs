//! `ampoule runtimes`: the interpreters and packages that programs find.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use ampoule_providers::runtimes::{
    BrokenRuntime, Catalogue, RuntimeFolder, RuntimeStatus, install, remove,
    resolve_from_environment, status,
};
use serde::Serialize;

use crate::{
    arguments::{RuntimesArguments, RuntimesCommand},
    commands::add_runtime,
    config::{Config, Layers},
    exit::{ExitCode, Failure},
    output,
    provider::catalogue,
};

/// Shows or prepares runtimes.
pub(crate) fn runtimes(arguments: RuntimesArguments, layers: &Layers) -> Result<ExitCode, Failure> {
    let config = Config::load(layers)?;
    match arguments.command {
        RuntimesCommand::List { json } => list(&config, json),
        RuntimesCommand::Install { languages } => {
            install_all(&catalogue(&config)?, &config.data_dir, &languages)
        }
        RuntimesCommand::Add { directory, replace } => {
            add_runtime::add(config, &directory, replace)
        }
        RuntimesCommand::Remove { language } => {
            let place = remove(&language, &config.data_dir)?;
            output::print(&format!("{language}: removed from {}\n", place.display()))?;
            Ok(ExitCode::Success)
        }
    }
}

/// One runtime, as `--json` prints it.
#[derive(Serialize)]
struct Report {
    language: String,
    aliases: Vec<String>,
    is_complete: bool,
    /// The folder, unless it is part of this binary.
    folder: Option<PathBuf>,
    interpreter: Option<InterpreterReport>,
    /// What is wrong with the folder or the interpreter, if anything.
    problem: Option<String>,
    packages_dir: Option<PathBuf>,
    packages: Vec<PackageReport>,
}

#[derive(Serialize)]
struct InterpreterReport {
    path: PathBuf,
    version: String,
}

#[derive(Serialize)]
struct PackageReport {
    name: String,
    /// None if it is missing.
    version: Option<String>,
}

impl Report {
    fn new(folder: &RuntimeFolder, status: RuntimeStatus) -> Self {
        let is_complete = status.is_complete();
        let (interpreter, problem) = match status.interpreter {
            Ok(found) => {
                (Some(InterpreterReport { path: found.path, version: found.version }), None)
            }
            Err(problem) => (None, Some(problem)),
        };
        let package = |package: ampoule_providers::runtimes::PackageStatus| PackageReport {
            name: package.name,
            version: package.version,
        };
        Self {
            language: status.language.to_string(),
            aliases: status.aliases,
            is_complete,
            folder: folder.path.clone(),
            interpreter,
            problem,
            packages_dir: status.packages_dir,
            packages: status.packages.into_iter().map(package).collect(),
        }
    }

    fn broken(broken: BrokenRuntime) -> Self {
        Self {
            language: broken.name,
            aliases: Vec::new(),
            is_complete: false,
            folder: Some(broken.path),
            interpreter: None,
            problem: Some(broken.problem.message().to_owned()),
            packages_dir: None,
            packages: Vec::new(),
        }
    }
}

/// Lists every runtime; a broken folder is one too, and the command fails because the others do.
fn list(config: &Config, json: bool) -> Result<ExitCode, Failure> {
    let data_dir = &config.data_dir;
    let (catalogue, broken) = Catalogue::survey(data_dir, &config.runtime_dirs);
    let code = if broken.is_empty() { ExitCode::Success } else { ExitCode::Usage };
    let reports: Vec<Report> = catalogue
        .iter()
        .map(|folder| Report::new(folder, status(folder, data_dir)))
        .chain(broken.into_iter().map(Report::broken))
        .collect();
    let text = if json {
        serde_json::to_string_pretty(&reports)
            .map_err(|error| Failure::platform(format!("failed to write the list: {error}")))?
    } else {
        reports.iter().map(told).collect::<Vec<_>>().join("\n")
    };
    output::print(&format!("{}\n", text.trim_end()))?;
    Ok(code)
}

/// A runtime for people.
fn told(report: &Report) -> String {
    let mut text = format!("{}\n", report.language);
    // Writing to a string does not fail.
    if let Some(folder) = &report.folder {
        let _ = writeln!(text, "  folder       {}", folder.display());
    }
    let _ = match (&report.interpreter, &report.problem) {
        (Some(found), _) => {
            writeln!(text, "  interpreter  {} at {}", found.version, found.path.display())
        }
        (None, Some(problem)) => writeln!(text, "  problem      {problem}"),
        (None, None) => Ok(()),
    };
    for package in &report.packages {
        let version = package.version.as_deref().unwrap_or("missing");
        let _ = writeln!(text, "  {:<11}  {version}", package.name);
    }
    if report.packages.iter().any(|package| package.version.is_none()) {
        let _ = writeln!(text, "  hint: `ampoule runtimes install {}`", report.language);
    }
    text
}

/// Installs the packages of the named languages, or of all; goes on after a failure and fails in
/// the end.
fn install_all(
    catalogue: &Catalogue,
    data_dir: &Path,
    names: &[String],
) -> Result<ExitCode, Failure> {
    let folders: Vec<&RuntimeFolder> = if names.is_empty() {
        catalogue.iter().filter(|folder| folder.manifest.packages.is_some()).collect()
    } else {
        names.iter().map(|name| catalogue.get(name)).collect::<Result<_, _>>()?
    };
    let mut code = ExitCode::Success;
    for folder in folders {
        let language = folder.language();
        let installed = resolve_from_environment(&folder.manifest).and_then(|interpreter| {
            interpreter.check_version(&folder.manifest)?;
            install(folder, &interpreter, data_dir, &mut |line| {
                output::note(&format!("{language}: {line}"));
            })
        });
        match installed {
            Ok(path) => output::print(&format!("{language}: {}\n", path.display()))?,
            Err(error) => {
                output::note(&error.chain());
                code = ExitCode::from(&error);
            }
        }
    }
    Ok(code)
}
