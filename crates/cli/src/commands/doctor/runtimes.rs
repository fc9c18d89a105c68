//! Interpreters and packages.

use ampoule_core::ForkProof;
use ampoule_providers::runtimes::{Catalogue, RuntimeStatus, status};

use super::report::{Check, Status};
use crate::config::Config;

const SECTION: &str = "runtimes";

/// Looks at each runtime. One that is missing is a warning as long as another is there.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let (catalogue, broken) = Catalogue::survey(&config.data_dir, &config.runtime_dirs);
    let mut checks: Vec<Check> =
        catalogue.iter().map(|folder| check(&status(folder, &config.data_dir))).collect();
    if checks.iter().any(|check| check.status != Status::Failed) {
        for check in checks.iter_mut().filter(|check| check.status == Status::Failed) {
            check.status = Status::Warning;
        }
    }
    // A broken folder stops every command that runs programs.
    checks.extend(broken.into_iter().map(|folder| {
        let problem = folder.problem.to_string();
        let (detail, fix) = problem.split_once("; hint: ").unwrap_or((&problem, "mend it"));
        Check::failed(SECTION, folder.path.display().to_string(), detail, fix)
    }));
    checks
}

/// Whether programs run in forks of a warm interpreter. They run all the same where they do not.
pub(super) fn forks(proof: &ForkProof) -> Check {
    let ForkProof { language, version, passed, problem } = proof;
    let name = format!("{language} forks");
    let version = version.as_deref().unwrap_or("unknown version");
    match problem {
        None => Check::ok(SECTION, name, format!("{version}: {passed} probes passed in forks")),
        Some(problem) => Check::warning(
            SECTION,
            name,
            format!("{version} is started for each program: {problem}"),
            "nothing, or another version of it; a start costs more time than a fork",
        ),
    }
}

fn check(runtime: &RuntimeStatus) -> Check {
    let name = runtime.language.as_str();
    let found = match &runtime.interpreter {
        Ok(found) => found,
        Err(problem) => {
            let (detail, fix) = problem.split_once("; hint: ").unwrap_or((problem, "install it"));
            return Check::failed(SECTION, name, detail, fix);
        }
    };
    let detail = format!("{} at `{}`", found.version, found.path.display());
    let missing: Vec<&str> = runtime
        .packages
        .iter()
        .filter(|package| package.version.is_none())
        .map(|package| package.name.as_str())
        .collect();
    if missing.is_empty() {
        return Check::ok(SECTION, name, format!("{detail}, {} packages", runtime.packages.len()));
    }
    let detail = format!("{detail} without {}", missing.join(", "));
    Check::warning(SECTION, name, detail, format!("`ampoule runtimes install {name}`"))
}
