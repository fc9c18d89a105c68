//! `ampoule doctor`: what works on this machine, what does not, and the fix.
//!
//! ```text
//! kernel, machine, meters, runtimes, service    looked at, each by itself
//! fences, the meters once more, forks           tried: probes in real sandboxes
//! ```
//!
//! Each section stands alone: what keeps sandboxes from being built here is one line, and the rest
//! is told all the same.

mod fences;
mod kernel;
mod leaks;
mod machine;
mod report;
mod runtimes;

use ampoule_providers::runtimes::Catalogue;

use self::report::{Check, Report};
use super::serve;
use crate::{
    arguments::DoctorArguments,
    config::{Config, Layers},
    exit::{ExitCode, Failure},
    logging, output,
};

/// Looks and tries; it is a failure of the platform if a service would lack something.
pub(crate) fn doctor(arguments: &DoctorArguments, layers: &Layers) -> Result<ExitCode, Failure> {
    if arguments.leaks {
        return leaks::list(arguments.json);
    }
    logging::start("off", Some(logging::LogFormat::Text))?;
    let mut report = Report::default();
    let (config, check) = configuration(layers);
    report.checks.push(check);
    report.checks.extend(kernel::checks());
    report.checks.extend(machine::checks());
    // Processes are started here: nothing before may have made a thread.
    fences::try_all(&config, &arguments.without, &mut report)?;
    report.checks.extend(runtimes::checks(&config));
    report.checks.extend(report.forks.iter().map(runtimes::forks));
    report.checks.push(machine::data_directory(&config.data_dir));
    report.checks.push(machine::address(&config.listen));
    report.checks.extend(refused_service(&config));
    report.checks.push(leaks::check());
    let text = if arguments.json { report.json()? } else { report.table(output::is_terminal()) };
    output::print(&text)?;
    Ok(if report.is_ok() { ExitCode::Success } else { ExitCode::PlatformFailed })
}

/// Why `serve` would refuse this configuration, if it would.
fn refused_service(config: &Config) -> Option<Check> {
    let (catalogue, _) = Catalogue::survey(&config.data_dir, &config.runtime_dirs);
    let failure = serve::preconditions(config, &catalogue).err()?;
    let text = failure.message.as_str();
    let (detail, fix) = text.split_once("; hint: ").unwrap_or((text, "mend it"));
    Some(Check::failed("machine", "service", detail, fix))
}

/// The configuration in effect; where it is wrong that is told, and the rest is looked at by the
/// defaults.
fn configuration(layers: &Layers) -> (Config, Check) {
    const SECTION: &str = "machine";
    const NAME: &str = "configuration";
    match Config::load(layers) {
        Ok(config) => {
            let file = config.origin.file.as_ref();
            let detail = match file {
                Some(file) => format!("`{}`, environment and flags", file.display()),
                None => "no file; environment and flags".to_owned(),
            };
            (config, Check::ok(SECTION, NAME, detail))
        }
        Err(failure) => {
            let text = failure.message.as_str();
            let (detail, fix) = text.split_once("; hint: ").unwrap_or((text, "mend it"));
            (Config::untouched(), Check::failed(SECTION, NAME, detail, fix))
        }
    }
}
