//! `ampoule runtimes`: the interpreters and packages that programs find.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use ampoule_providers::runtimes::{
    Catalogue, RuntimeFolder, RuntimeStatus, install, resolve_from_environment, status,
};
use serde::Serialize;

use crate::{
    arguments::{RuntimesArguments, RuntimesCommand},
    config::{Config, Layers},
    exit::{ExitCode, Failure},
    output,
};

/// Shows or prepares runtimes.
pub(crate) fn runtimes(arguments: RuntimesArguments, layers: &Layers) -> Result<ExitCode, Failure> {
    let catalogue = Catalogue::builtin();
    let Config { data_dir, .. } = Config::load(layers)?;
    match arguments.command {
        RuntimesCommand::List { json } => list(&catalogue, &data_dir, json),
        RuntimesCommand::Install { languages } => install_all(&catalogue, &data_dir, &languages),
    }
}

/// One runtime, as `--json` prints it.
#[derive(Serialize)]
struct Report {
    language: String,
    aliases: Vec<String>,
    is_complete: bool,
    interpreter: Option<InterpreterReport>,
    /// What is wrong with the interpreter, if anything.
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

impl From<RuntimeStatus> for Report {
    fn from(status: RuntimeStatus) -> Self {
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
            interpreter,
            problem,
            packages_dir: status.packages_dir,
            packages: status.packages.into_iter().map(package).collect(),
        }
    }
}

fn list(catalogue: &Catalogue, data_dir: &Path, json: bool) -> Result<ExitCode, Failure> {
    let reports: Vec<Report> =
        catalogue.iter().map(|folder| status(folder, data_dir).into()).collect();
    let text = if json {
        serde_json::to_string_pretty(&reports)
            .map_err(|error| Failure::platform(format!("failed to write the list: {error}")))?
    } else {
        reports.iter().map(told).collect::<Vec<_>>().join("\n")
    };
    output::print(&format!("{}\n", text.trim_end()))?;
    Ok(ExitCode::Success)
}

/// A runtime for people.
fn told(report: &Report) -> String {
    let mut text = format!("{}\n", report.language);
    // Writing to a string does not fail.
    let _ = match (&report.interpreter, &report.problem) {
        (Some(found), _) => {
            writeln!(text, "  interpreter  {} at {}", found.version, found.path.display())
        }
        (None, problem) => {
            writeln!(text, "  interpreter  missing: {}", problem.as_deref().unwrap_or("unknown"))
        }
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
